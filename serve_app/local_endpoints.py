"""What local services fill into the settings where no URL or key is set."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr

from serve_app.settings import Settings

SIMULATED_NUMBER = "+12015550100"
"""The caller id of the simulated network: a number that is never assigned (NANP 555-01xx)."""


class SimulatedVonage(BaseModel):
    """The account that the simulated network knows."""

    model_config = ConfigDict(frozen=True)

    api_key: str
    application_id: str
    private_key: str
    public_key: str
    signature_secret: str
    from_number: str = SIMULATED_NUMBER


class LocalEndpoints(BaseModel):
    """What `Settings` lacks, once it runs. None: the settings name their own."""

    model_config = ConfigDict(frozen=True)

    database_url: str | None = None
    redis_url: str | None = None
    simulators_url: str | None = None
    vonage: SimulatedVonage | None = None


def needs_local_services(settings: Settings) -> bool:
    return settings.database.url is None or settings.redis.url is None or bool(settings.simulated)


def with_local_services(settings: Settings, endpoints: LocalEndpoints) -> Settings:
    """The same settings with the endpoints filled in wherever nothing was set."""
    update: dict[str, Any] = {}
    if endpoints.database_url and settings.database.url is None:
        update["database"] = settings.database.model_copy(update={"url": endpoints.database_url})
    if endpoints.redis_url and settings.redis.url is None:
        update["redis"] = settings.redis.model_copy(update={"url": endpoints.redis_url})
    http = endpoints.simulators_url
    if http is not None:
        sockets = http.replace("http://", "ws://", 1)
        # A simulator takes any key but checks that there is one.
        stand_in: dict[str, dict[str, object]] = {
            "deepgram": {"base_url": http, "websocket_url": sockets},
            "groq": {"base_url": http},
            "openai": {"base_url": f"{http}/v1"},
            "cartesia": {"base_url": http, "websocket_url": sockets},
        }
        providers = {
            name: getattr(settings.providers, name).model_copy(
                update={"api_key": SecretStr("simulated"), **stand_in[name]}
            )
            for name in settings.simulated & stand_in.keys()
        }
        update["providers"] = settings.providers.model_copy(update=providers)
        if endpoints.vonage is not None:
            account = endpoints.vonage
            vonage = settings.telephony.vonage.model_copy(
                update={
                    "api_key": account.api_key,
                    "application_id": account.application_id,
                    "private_key": SecretStr(account.private_key),
                    "signature_secret": SecretStr(account.signature_secret),
                    "from_number": settings.telephony.vonage.from_number or account.from_number,
                    "base_url": http,
                }
            )
            update["telephony"] = settings.telephony.model_copy(update={"vonage": vonage})
    return settings.with_stand_ins(update)


def sqlite_url(settings: Settings) -> str:
    """The SQLite file of the data folder, by absolute path: every process must mean the same file."""
    return f"sqlite+aiosqlite:///{settings.data_dir.expanduser().resolve() / 'parley.db'}"
