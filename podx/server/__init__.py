"""The HTTP service: ``podx serve``, and :func:`create_app` for who embeds it. Needs ``podx[serve]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podx.errors import DependencyError

if TYPE_CHECKING:
    from podx.server.app import create_app
    from podx.server.settings import Settings

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> object:
    """Import the web framework only when it is used, so that ``podx --help`` needs none."""
    if name == "Settings":
        from podx.server.settings import Settings

        return Settings
    if name == "create_app":
        try:
            from podx.server.app import create_app
        except ModuleNotFoundError as error:
            raise DependencyError(
                f"podx.server needs {error.name}, which is not installed: pip install 'podx[serve]'"
            ) from error
        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
