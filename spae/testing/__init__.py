"""Property-test your own quantizer: hypothesis strategies for hard inputs, and plain NumPy oracles in
float64.

    from hypothesis import given
    from spae.testing import oracles, strategies

    @given(strategies.lookups())
    def test_my_lookup(problem):
        ids = my_nearest_code(problem.x, problem.codes, problem.mask)
        expected, _ = oracles.topk_codes(problem.x, problem.codes, 1, problem.mask)
        assert (ids.numpy() == expected[:, 0]).all()

`strategies` needs hypothesis (the `dev` extra); `oracles` needs NumPy alone.
"""
