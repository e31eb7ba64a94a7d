from hypothesis import settings

# Speed is measured in benchmarks/, never asserted in a test; and a run of the suite is repeatable.
settings.register_profile("spae", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("spae")
