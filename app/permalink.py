"""A view as the fragment of a link, and back.

A fragment stays in the browser: no server's log ever holds it. Written are a version, and what
differs from the default view as compressed JSON: `#1.eNqr...`.
"""

import base64
import binascii
import json
import zlib

from app.view import View

VERSION = "1"
MAX_FRAGMENT = 16_000
"""In characters. Browsers and chat programs cut longer links."""
_MAX_JSON_BYTES = 4_000_000
"""No fragment may unpack to more: a few bytes can be made to unpack to gigabytes."""


class DamagedLinkError(ValueError):
    """A fragment that holds no view."""


def encode(view: View) -> str | None:
    """Return the fragment of a view, without its `#`; None if it would be too long for a link."""
    default = View().to_json()
    changed = {
        name: value
        for name, value in view.to_json().items()
        if name == "model" or value != default[name]
    }
    text = json.dumps(changed, separators=(",", ":"), sort_keys=True)
    packed = base64.urlsafe_b64encode(zlib.compress(text.encode("ascii"), 9))
    fragment = f"{VERSION}.{packed.decode('ascii').rstrip('=')}"
    return fragment if len(fragment) <= MAX_FRAGMENT else None


def decode(fragment: str) -> View:
    """Return the view that a fragment holds.

    Args:
        fragment: with or without its `#`.

    Raises:
        DamagedLinkError: it is not a fragment that `encode` wrote.
    """
    version, _, packed = fragment.removeprefix("#").partition(".")
    if version != VERSION or len(packed) > MAX_FRAGMENT:
        raise DamagedLinkError("not a link of this version")
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(raw, _MAX_JSON_BYTES)
        if not unpacker.eof:
            raise DamagedLinkError("the link is cut or too long")
        return View.from_json(json.loads(text))
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise DamagedLinkError(str(error)) from error
