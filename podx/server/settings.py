"""What the server allows: flags of ``podx serve``, and fields for who embeds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from podx.errors import ConfigError
from podx.flags import check, option
from podx.serving.batcher import DEFAULT_MAX_PENDING, DEFAULT_MAX_WAIT_MS, MILLISECONDS
from podx.text.batches import DEFAULT_BATCH_SIZE

KILOBYTE = 1024


@dataclass(frozen=True)
class Settings:
    """Limits of the server.

    Raises:
        ConfigError: a number is out of range.
    """

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0: all of this machine's.")
    port: int = option(8000, "Port to listen on; 0: any that is free.", least=0, most=65535)
    max_batch: int = option(DEFAULT_BATCH_SIZE, "Most requests of one call of the model.", least=1)
    max_wait_ms: float = option(DEFAULT_MAX_WAIT_MS, "Longest pause after a batch, for clients to come back.", least=0)
    max_pending: int = option(DEFAULT_MAX_PENDING, "Most requests that wait; one more gets status 429.", least=1)
    timeout_ms: float = option(1000.0, "Milliseconds after which a request gets status 504.", above=0)
    max_k: int = option(100, "Most items that a request may ask for.", least=1)
    max_body_kb: int = option(1024, "Kilobytes that a request's body may have; a longer one gets status 413.", least=1)
    api_key_file: Path | None = option(None, "File with a key a line; a request must bring one, and /admin is on.")
    watch: bool = option(False, "Take over a bundle that replaces BUNDLE.", flag="--watch")

    def __post_init__(self) -> None:
        check(self)

    @property
    def timeout_s(self) -> float:
        """Seconds after which a request is over its time."""
        return self.timeout_ms / MILLISECONDS

    @property
    def max_body(self) -> int:
        """Bytes that a request's body may have."""
        return self.max_body_kb * KILOBYTE

    def keys(self) -> tuple[bytes, ...]:
        """The keys of the file; none where there is no file.

        Raises:
            ConfigError: the file cannot be read, or holds no key.
        """
        if self.api_key_file is None:
            return ()
        try:
            keys = tuple(line.strip() for line in self.api_key_file.read_bytes().splitlines() if line.strip())
        except OSError as error:
            raise ConfigError(f"--api-key-file cannot be read ({error}): give a file with a key a line") from error
        if not keys:
            raise ConfigError(f"--api-key-file {self.api_key_file} holds no key: write one into it, a key a line")
        return keys
