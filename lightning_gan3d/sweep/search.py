"""Settings drawn at random, or by Bayesian optimisation from earlier results, with Optuna."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Ge

from lightning_gan3d import config as cfg
from lightning_gan3d.config import ConfigError
from lightning_gan3d.files import parse_json, write_json
from lightning_gan3d.metric import parse_key
from lightning_gan3d.metric_table import describe
from lightning_gan3d.ranges import Count, Positive

if TYPE_CHECKING:
    import optuna

TRIALS = "trials.json"
DIGITS = 4
"""Significant digits of drawn numbers, so that labels state them exactly."""
ATTEMPTS = 100
"""Draws of settings that were drawn before, until the space counts as exhausted."""
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; whole ones if both are."""

    low: float
    high: float
    log: bool = False
    """Draw the logarithm uniformly."""
    step: Positive | None = None
    """Distance of the numbers. None: 1 for whole numbers, else any."""


@dataclass(frozen=True)
class SearchConfig:
    """A search over settings."""

    space: dict[str, Any]
    """Of each setting: a list of choices, or `{low, high, log, step}`, see `Range`."""
    trials: Count = 20
    """Points of the space. More of them later keep the earlier ones."""
    sampler: Literal["random", "tpe"] = "random"
    """`tpe`: tree-structured Parzen estimator (Bergstra et al. 2011), which needs results."""
    metric: str = ""
    """Of `evaluation.json`, e.g. `quality.swd`; optimised by `tpe`, as the mean over seeds."""
    startup: Count = 10
    """Random trials before the estimator chooses."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        """Check space and metric."""
        if not self.space:
            raise ConfigError("search.space={}: name at least one setting", field="space")
        for key, values in self.space.items():
            _range_of(key, values)
        if self.sampler == "tpe" and not describe(parse_key(self.metric or "?")).better:
            raise ConfigError(
                f"search.metric={self.metric!r}: tpe optimises a metric with a better direction, "
                "e.g. quality.swd or quality.fid",
                field="metric",
            )


def _range_of(key: str, values: Any) -> Range | None:
    """Return the range of a setting; None for choices. `ConfigError` if it is neither."""
    if isinstance(values, list) and values:
        return None
    try:
        found = cfg.build(Range, values)
        if found.low < found.high and not (found.log and (found.low <= 0 or found.step)):
            return found
    except (ConfigError, TypeError):
        pass
    raise ConfigError(
        f"search.space.{key}={values!r}: use a list of choices, or {{low: 1, high: 8}} with low < "
        "high; `log: true` needs low > 0 and no step",
        field="space",
    )


class Trial(NamedTuple):
    """A point of the space and its result."""

    settings: Settings
    value: float | None = None
    """Mean of the metric over seeds; None while it runs, and if a run failed."""
    failed: bool = False


def read_trials(search: SearchConfig, folder: Path) -> list[Settings]:
    """Return the settings of all trials: all at once at random, else those chosen so far."""
    if search.sampler == "random":
        drawn: list[Trial] = []
        return [t.settings for t in _ask(search, drawn, search.trials)]
    file = folder / TRIALS
    trials: list[Settings] = parse_json(file.read_bytes(), list) if file.is_file() else []
    for settings in trials:
        if settings.keys() != search.space.keys() or not all(
            _is_inside(search.space[key], value) for key, value in settings.items()
        ):
            raise ConfigError(
                f"search.space has changed: {file} has {dict(settings)}; give the sweep another "
                "`name`, or restore the space",
                field="space",
            )
    return trials


def add_trial(search: SearchConfig, folder: Path, trials: Sequence[Trial]) -> bool:
    """Choose the settings of the next trial and record them; False if the search has ended."""
    new = _ask(search, trials, min(1, search.trials - len(trials)))
    if new:
        write_json(folder / TRIALS, [dict(t.settings) for t in (*trials, *new)])
    return bool(new)


def _ask(search: SearchConfig, known: Sequence[Trial], num: int) -> list[Trial]:
    """Return `num` new trials, fewer if the space is exhausted."""
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "search: needs Optuna; pip install 'lightning-gan3d[search]'", field="search"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution(_range_of(key, v), v) for key, v in search.space.items()}
    samplers = optuna.samplers
    sampler: Any = samplers.RandomSampler(search.seed)
    if search.sampler == "tpe":
        seed, startup = search.seed + len(known), search.startup
        sampler = samplers.TPESampler(n_startup_trials=startup, constant_liar=True, seed=seed)
    better = describe(parse_key(search.metric)).better if search.metric else "lower"
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if better == "higher" else directions.MINIMIZE
    study = optuna.create_study(sampler=sampler, direction=direction)
    states = optuna.trial.TrialState
    for trial in known:
        without_value = states.FAIL if trial.failed else states.RUNNING
        study.add_trial(
            optuna.trial.create_trial(
                params={k: _index(search.space[k], v) for k, v in trial.settings.items()},
                distributions=space,
                value=trial.value,
                state=without_value if trial.value is None else states.COMPLETE,
            )
        )
    new: list[Trial] = []
    for _ in range(num * ATTEMPTS):
        if len(new) == num:
            break
        asked = study.ask(space)
        settings = {k: _value(v, asked.params[k]) for k, v in search.space.items()}
        if all(settings != t.settings for t in (*known, *new)):
            new.append(Trial(settings))
    return new


def _distribution(bounds: Range | None, values: Any) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if bounds is None:  # by position, since choices may be lists
        return CategoricalDistribution(range(len(values)))
    low, high, step = values["low"], values["high"], values.get("step")
    if all(isinstance(x, int) for x in (low, high, step or 1)):
        return IntDistribution(low, high, log=bounds.log, step=step or 1)
    return FloatDistribution(low, high, log=bounds.log, step=step)


def _value(values: Any, drawn: Any) -> Any:
    """Return the setting of what Optuna drew."""
    if isinstance(values, list):
        return values[drawn]
    if isinstance(drawn, int):
        return drawn
    return min(max(float(f"{drawn:.{DIGITS}g}"), values["low"]), values["high"])


def _is_inside(values: Any, setting: Any) -> bool:
    """Whether a setting could have been drawn from choices or a range."""
    if isinstance(values, list):
        return setting in values
    return isinstance(setting, int | float) and values["low"] <= setting <= values["high"]


def _index(values: Any, setting: Any) -> Any:
    """Return what Optuna would have drawn for a setting."""
    return values.index(setting) if isinstance(values, list) else setting
