"""Secrets never reach a log, a record or a screen: found by their form, and by the variables that hold them.

Redaction is the second line. The first is that settings which hold a secret are refused (`config_files.validate`).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

REDACTED = "[redacted]"
SHORTEST = 8  # shorter values of secret variables are words such as `none`: replacing them would garble ordinary text

_SECRET_NAME = re.compile(
    r"(?:TOKEN|SECRET|PASS(?:W(?:OR)?D|PHRASE)?|CREDENTIAL|(?:API|ACCESS|PRIVATE|AUTH|SECRET)_?KEY)S?(?:_|$)"
)
_OPEN_VALUE = re.compile(r"[/~.]|\d+$")  # a path to a secret, or a count of tokens, is no secret

_FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bwandb_v1_[A-Za-z0-9_-]{16,}"  # Weights & Biases, present form
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{16,}"  # GitHub, GitLab, Slack
    r"|\bsk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS key ids
    r"|(?<=\bBearer )[A-Za-z0-9._~+/=-]{16,}"
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",  # user:password@ in an address
)
# WANDB_API_KEY=..., "api_key": "...", --token ...: the name stays readable, the value goes.
_NAMED = re.compile(
    r"(?i)(\b[\w-]*(?:token|secret|password|passwd|api[_-]?key)[\"']?\s*[=:]\s*[\"']?|--[\w-]*(?:token|secret|key)[ =])"
    r"(?=\S*\d)[A-Za-z0-9._~+/-]{16,}"
)


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """Values of variables whose names say that they are secret, longest first."""
    found = {
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name.upper()) and len(value) >= SHORTEST and not _OPEN_VALUE.match(value)
    }
    return sorted(found, key=lambda value: (-len(value), value))


def redact(text: str) -> str:
    """`text` with every secret of the environment, and whatever has the form of an access token, replaced."""
    for secret in secrets_in(os.environ):
        text = text.replace(secret, REDACTED).replace(json.dumps(secret, ensure_ascii=False)[1:-1], REDACTED)
    text = _FORMS.sub(REDACTED, text)
    return _NAMED.sub(lambda found: found[1] + REDACTED, text)


def redacted(value: Any) -> Any:
    """A JSON value with all its text redacted, keys too; numbers stay what they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redacted(key): redacted(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(entry) for entry in value]
    return value


class RedactedStream:
    """Stands before a text stream and writes whole lines to it, redacted; everything else is the stream's own.

    A line is held until it ends or is flushed, so that a secret written in pieces is seen in one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._held = stream, ""

    def write(self, text: str) -> int:
        """Take `text`; lines that are complete go on."""
        lines, end, rest = (self._held + text).rpartition("\n")
        self._held = rest
        if end:
            self._stream.write(redact(lines) + end)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Take several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send on what is held."""
        held, self._held = self._held, ""
        if held:
            self._stream.write(redact(held))
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> None:
    """From now on nothing that this process prints, tracebacks included, shows a secret. Call it before other imports.

    Loggers that are made later find the guarded streams; text that C code writes to the file descriptors passes by.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, RedactedStream):
            setattr(sys, name, RedactedStream(stream))
