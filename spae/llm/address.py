"""A server's address: the URL, the credentials that go with it, and how neither of them is ever shown."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

_SHORTEST_SECRET = 4  # a shorter one is none, and replacing it would leave nothing of a text


@dataclass(frozen=True)
class Address:
    """Where a server is, apart from the credentials.

    url: without user name and password. login: those two, if the URL has them. api_key: sent as a bearer
    token.
    """

    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, api_key: str | None = None) -> Address:
        """Raises ValueError, which shows no secret, for a URL or a key that cannot be used."""
        if not isinstance(url, str):
            kind = type(url).__name__
            raise TypeError(f"url: expected http(s)://host[:port]/path without a query, got {kind}")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment:
            shown = "one with credentials" if "@" in url else repr(url.partition("?")[0])
            raise ValueError(
                f"url: expected http(s)://host[:port]/path without a query, got {shown}"
            ) from None
        if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ValueError("api_key: expected printable ASCII without spaces, got something else")
        plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        if parts.username is None:
            return cls(plain, None, api_key or None)
        if api_key:
            raise ValueError(f"api_key: expected none beside the credentials in the url of {plain}, got one")
        return cls(plain, (unquote(parts.username), unquote(parts.password or "")))

    def redact(self, text: str) -> str:
        """A text as people may see it: without the secrets, and with a space for what does not print."""
        secrets = [self.api_key or ""]
        if self.login is not None:
            user, password = self.login
            pair = f"{user}:{password}"
            secrets = [pair, base64.b64encode(pair.encode()).decode(), password or user]
        forms = {form for s in secrets for form in (s, quote(s, safe=""), json.dumps(s)[1:-1], repr(s)[1:-1])}
        for form in sorted(forms, key=len, reverse=True):
            if len(form) >= _SHORTEST_SECRET:
                text = text.replace(form, "[redacted]")
        return "".join(character if character.isprintable() else " " for character in text)
