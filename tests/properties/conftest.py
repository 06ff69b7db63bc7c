"""Profiles: a few seeded examples in `make test`; `HYPOTHESIS_PROFILE=long` searches longer."""

import os

from hypothesis import HealthCheck, settings

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "test", derandomize=True, max_examples=8, deadline=None, suppress_health_check=slow
)
settings.register_profile(
    "long", max_examples=500, deadline=None, suppress_health_check=slow, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
