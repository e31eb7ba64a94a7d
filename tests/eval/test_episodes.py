from collections import Counter

import pytest

from spae.eval.episodes import (
    FewShotSetting,
    Labels,
    load_episodes,
    paper_settings,
    sample_episodes,
    save_episodes,
)
from spae.eval.statistics import difference, proportion

LABELS = [i % 7 for i in range(70)]


def test_the_papers_fourteen_settings():
    settings = [*paper_settings(2), *paper_settings(5)]
    assert len({s.name for s in settings}) == 14
    assert [s.induction for s in paper_settings(5)] == [False] + [True] * 6
    assert [(s.inner_shots, s.repeats) for s in paper_settings(2)] == [
        (1, 0),
        (1, 0),
        (3, 0),
        (5, 0),
        (1, 1),
        (1, 3),
        (1, 5),
    ]
    assert [s.num_examples for s in paper_settings(5)] == [5, 5, 15, 25, 10, 20, 30]


@pytest.mark.parametrize("setting", [*paper_settings(2), *paper_settings(5)], ids=lambda s: s.name)
def test_episodes_show_each_class_equally_and_never_the_query(setting):
    for episode in sample_episodes(LABELS, setting, 40, seed=3):
        assert len(set(episode.classes)) == setting.ways
        assert len(episode.shots) == setting.num_examples
        shown = Counter(episode.shots)
        assert set(shown.values()) == {setting.repeats + 1}
        assert Counter(shot.way for shot in shown) == dict.fromkeys(range(setting.ways), setting.inner_shots)
        for shot in [*episode.shots, episode.query]:
            assert LABELS[shot.item] == episode.classes[shot.way]
        assert episode.query.item not in {shot.item for shot in episode.shots}


def test_neither_position_nor_order_tells_the_answer():
    setting = FewShotSetting(2)
    episodes = sample_episodes(LABELS, setting, 400)
    assert Counter(e.query.way for e in episodes) == {0: 200, 1: 200}
    last_shown_is_right = sum(e.shots[-1].way == e.query.way for e in episodes)
    assert 160 < last_shown_is_right < 240
    assert len({e.classes for e in episodes}) > 30


def test_queries_from_another_set():
    query_labels = [3, 4, 4, 5]
    episodes = sample_episodes(Labels(LABELS, query_labels), FewShotSetting(2), 30, seed=1)
    for episode in episodes:
        assert query_labels[episode.query.item] == episode.classes[episode.query.way]
        assert set(episode.classes) <= {3, 4, 5}


def test_nothing_of_the_querys_group_is_shown():
    """Classes 0 and 1 have three groups of two items each; class 2 has one group, so it is never a way."""
    shown = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, -1]
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    asked, asked_groups = [0, 0, 0, 1, 1, 1, 2, -1], [0, 1, 2, 3, 4, 5, 6, 7]
    labels = Labels(shown, asked, groups, asked_groups)
    for episode in sample_episodes(labels, FewShotSetting(2, 4), 40):
        assert set(episode.classes) == {0, 1}
        assert asked_groups[episode.query.item] not in {groups[shot.item] for shot in episode.shots}
    with pytest.raises(ValueError, match=r"for 2-way 5-shot, got 0; the largest class has 4"):
        sample_episodes(labels, FewShotSetting(2, 5), 1)
    with pytest.raises(ValueError, match="groups: expected those of shown and of asked items, or neither"):
        sample_episodes(Labels(shown, asked, groups), FewShotSetting(2), 1)


def test_the_seed_decides_and_files_keep(tmp_path):
    setting = FewShotSetting(5, inner_shots=3)
    episodes = sample_episodes(LABELS, setting, 10, seed=5)
    assert episodes == sample_episodes(LABELS, setting, 10, seed=5)
    assert episodes != sample_episodes(LABELS, setting, 10, seed=6)
    assert episodes[:4] == sample_episodes(LABELS, setting, 4, seed=5)
    save_episodes(tmp_path / "a" / "episodes.jsonl", setting, episodes)
    assert load_episodes(tmp_path / "a" / "episodes.jsonl") == (setting, episodes)


def test_bad_input_is_named():
    with pytest.raises(
        ValueError,
        match=r"labels: expected at least 5 classes with 3 items beside a query for 5-way 3-shot, got 0; the largest class has 0",
    ):
        sample_episodes([1, 2, 3, 4, 5], FewShotSetting(5, inner_shots=3), 1)
    with pytest.raises(ValueError, match="ways: expected at least 2, got 1"):
        FewShotSetting(1)
    with pytest.raises(ValueError, match="successes"):
        proportion(3, 2)


def test_differences_are_paired():
    """The same shares; what they say of the difference depends on whether the hits fall together."""
    ones = [True] * 60 + [False] * 40
    together = difference(ones, [True] * 50 + [False] * 50)
    apart = difference(ones, [False] * 50 + [True] * 50)
    assert together.value == apart.value == pytest.approx(0.1)
    assert together.low > 0 > apart.low
    # Ten differences of 1 among 100.
    half = 1.959964 * (0.1 * 0.9 / 99) ** 0.5
    assert (together.low, together.high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 20, 0.0, 0.1611), (10, 20, 0.2993, 0.7007), (20, 20, 0.8389, 1.0)],
)
def test_wilson_interval_against_published_values(successes, trials, low, high):
    interval = proportion(successes, trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
