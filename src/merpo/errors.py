"""The errors merpo raises on purpose; each names the argument, its value, what was expected and what to do."""


class MerpoError(Exception):
    """Base of every error that merpo raises on purpose."""


class DataError(MerpoError, ValueError):
    """Logged data that cannot be learned from as they are."""


class StorageError(MerpoError, OSError):
    """A file or folder that is missing, truncated, foreign, or cannot be written."""


class ConfigError(MerpoError, ValueError):
    """A setting outside its range, or a checkpoint that belongs to another configuration."""


class DivergenceError(MerpoError, ArithmeticError):
    """Learning that went to NaN, infinity or absurd values; names the task, the seed, the figure and what to lower."""


class UnknownNameError(MerpoError, KeyError):
    """A family, quality or data set that merpo does not know."""

    def __str__(self) -> str:
        """The message itself; KeyError would show its repr."""
        return str(self.args[0]) if self.args else ""


class DataWarning(UserWarning):
    """Logged data were changed, or look like a mistake; the message says what to do."""


class VersionWarning(UserWarning):
    """State is taken up that other code or another machine made: its bits may not be those of one undisturbed run."""


LARGEST_COUNT, LARGEST_WIDTH = 2**31 - 1, 2**16


def check_count(name: str, value: int, least: int = 1) -> None:
    """ConfigError unless a setting that counts something is a whole number that a device's int32 can hold."""
    if not least <= value <= LARGEST_COUNT:
        raise ConfigError(f"{name}={value}: expected a whole number >= {least}, below 2^31.")


def check_group(group: int | None) -> None:
    """ConfigError unless this can be the number of jobs that are batched, or None."""
    if group is not None:
        check_count("group", group)


def check_widths(name: str, widths: tuple[int, ...]) -> None:
    """ConfigError unless these can be the widths of hidden layers."""
    if not all(1 <= w <= LARGEST_WIDTH for w in widths):
        raise ConfigError(f"{name}={widths}: expected widths in 1..{LARGEST_WIDTH}.")
