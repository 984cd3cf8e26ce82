"""The application's private key: PEM text or a file, in either PEM form.

The SDK's JWT client takes only PKCS#8 text, and a path only if it has an extension (a mounted secret has none). It
hands what it is given to PyJWT, which parses and checks a text for every token, some 80 ms of CPU: so the key is read
here, once, and given to it as a key.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from serve_app.errors import SettingsError
from serve_app.settings import VonageSettings


def load_private_key(settings: VonageSettings) -> tuple[str, RSAPrivateKey]:
    """(application id, RSA private key). Raises SettingsError that names the setting and the remedy."""
    if settings.application_id is None or settings.private_key is None:
        raise SettingsError(
            "telephony.vonage: application_id and private_key are needed; set VONAGE_APPLICATION_ID and "
            "VONAGE_PRIVATE_KEY"
        )
    text = settings.private_key.get_secret_value().strip()
    if "-----BEGIN" not in text:
        path = Path(text).expanduser()
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"telephony.vonage.private_key: neither PEM text nor a readable file ({type(error).__name__}); set "
                "VONAGE_PRIVATE_KEY to the PEM text, or to the path of the file that holds it"
            ) from error
    # Environment files often carry the line breaks as two characters.
    pem = text.replace("\\n", "\n").strip().encode()
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SettingsError(
            "telephony.vonage.private_key: not an unencrypted PEM private key; download it again from the Vonage "
            "application's page"
        ) from error
    if not isinstance(key, RSAPrivateKey):
        raise SettingsError("telephony.vonage.private_key: Vonage applications use RSA keys")
    return settings.application_id, key
