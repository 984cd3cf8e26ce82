"""The settings: one frozen, validated tree, read once at start from YAML and the environment.

Order: environment (`PARLEY_SECTION__KEY`), then the YAML file (`PARLEY_CONFIG`, else `configs/parley.yaml`), then the
defaults below. An unknown key is an error that names the nearest valid one; so is a `${NAME}` that is not set.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import platformdirs
import yaml
from pydantic import (
    AnyHttpUrl,
    AnyWebsocketUrl,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as EnvSettingsError

from serve_app.errors import SettingsError
from serve_app.latency_budgets import LatencyBudgets
from serve_app.paths import configs_dir
from serve_app.provider_settings import (
    STAGE_KEYS,
    FallbackSettings,
    LlmName,
    OptionalSecret,
    OptionalText,
    ProviderEntry,
    ProviderSettings,
    Section,
    StageKey,
    SttName,
    TtsName,
    empty_is_none,
    entries_of,
)

ENV_PREFIX = "PARLEY_"
# Variables with the prefix that are not settings: where to find the settings, and what the CLI connects to.
RESERVED_ENV = frozenset({"PARLEY_CONFIG", "PARLEY_URL", "PARLEY_API_KEY"})


E164 = Annotated[str, Field(pattern=r"^\+[1-9]\d{6,14}$")]
OptionalE164 = Annotated[E164 | None, BeforeValidator(empty_is_none)]


class ServerSettings(Section):
    public_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8000")
    media_host: str = "127.0.0.1"
    media_port: Annotated[Annotated[int, Field(ge=1, le=65535)] | None, BeforeValidator(empty_is_none)] = Field(
        8001, description="the ingress' own listener; empty: none, all media passes Serve's proxy"
    )
    media_url: Annotated[AnyWebsocketUrl | None, BeforeValidator(empty_is_none)] = Field(
        None, description="where the phone network reaches it, without /media; empty: see serve_app.media_address"
    )


class DatabaseSettings(Section):
    url: OptionalText = None
    connect_timeout_s: float = Field(5, gt=0)


class RedisSettings(Section):
    url: OptionalText = None
    connect_timeout_s: float = Field(5, gt=0)


class ObjectSettings(Section):
    url: OptionalText = None


def false_is_off(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class VonageSettings(Section):
    api_key: OptionalText = None
    application_id: OptionalText = None
    private_key: OptionalSecret = None
    signature_secret: OptionalSecret = None
    from_number: OptionalE164 = None
    base_url: str = "https://api.nexmo.com"
    sample_rate_hz: Literal[8000, 16000, 24000] = 16000
    media_auth: Literal["header", "path"] = Field(
        "header", description="where the one-time media token travels: the handshake's Authorization, or the URL path"
    )
    require_payload_hash: bool = False
    max_webhook_age_s: int = Field(300, ge=10)
    ringing_timer_s: int = Field(30, ge=15, le=120)
    length_timer_s: int = Field(3600, ge=60, le=7200)
    calls_per_second: float = Field(3, gt=0)
    channels: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(empty_is_none)] = Field(
        None, description="calls that the account carries at once, ringing or answered; empty: it states no limit"
    )
    request_timeout_s: float = Field(8, gt=0)
    machine_detection: Annotated[Literal["off", "continue", "hangup"], BeforeValidator(false_is_off)] = Field(
        "off",
        description="whether the network listens for answering machines, which it charges for: off, or what follows "
        "when it hears one: the call goes on, or is ended",
    )

    @property
    def configured(self) -> bool:
        return all((self.application_id, self.private_key, self.signature_secret, self.from_number))

    @property
    def on_this_machine(self) -> bool:
        """Plain HTTP to a loopback address: a simulator that somebody runs alone (`parley simulators`)."""
        url = urlsplit(self.base_url)
        if url.scheme != "http" or url.hostname is None:
            return False
        try:
            return url.hostname == "localhost" or ipaddress.ip_address(url.hostname).is_loopback
        except ValueError:
            return False

    @property
    def missing(self) -> tuple[str, ...]:
        """What of an account is not set, where some of it is: probably forgotten."""
        needed = ("application_id", "private_key", "signature_secret", "from_number")
        absent = tuple(f"VONAGE_{name.upper()}" for name in needed if not getattr(self, name))
        return absent if 0 < len(absent) < len(needed) else ()


class TelephonySettings(Section):
    vonage: VonageSettings = VonageSettings()


class SimulatedClockSettings(Section):
    """See `dialing.campaign_clock`."""

    begins: AwareDatetime = Field(description="what a campaign's clock shows when it is started")
    speed: float = Field(60, ge=1, le=3600, description="how much faster than real time it runs")


class DialingSettings(Section):
    allowed_numbers: tuple[E164, ...] = ()
    queue_timeout_s: float = Field(
        30, ge=0, description="longest wait of a call for a free session, a line, or its tenant's limit"
    )
    max_ringing: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(empty_is_none)] = Field(
        None, description="calls placed and not answered, at once; empty: as many as sessions and rate allow"
    )
    slow_request_s: float = Field(
        2, gt=0, le=60, description="create-call requests (their 95th percentile) beyond it mean a network in trouble"
    )
    max_calls_per_24h: int = Field(10, ge=1, le=24, description="to one real number, outside campaigns")
    simulated_clock: SimulatedClockSettings | None = Field(
        None, description="campaigns on a simulated network go by it: their rules and retries, and nothing else"
    )


class AgentSettings(Section):
    default: str = "riverside-dental"
    numbers: Mapping[E164, str] = Field(default_factory=dict)


class SpeculationSettings(Section):
    """Drafts of an answer, begun when the callee's turn may be over. Where they are in vain, they stop for a while."""

    enabled: bool = True
    min_hit_rate: float = Field(0.5, ge=0, le=1, description="share of drafts that became the answer")
    max_wasted_share: float = Field(0.5, ge=0, le=1, description="share of all tokens that went into dropped drafts")
    min_samples: int = Field(20, ge=1, le=10_000, description="drafts before either share is judged")
    retry_after_s: float = Field(300, gt=0, le=86_400)


class CallSettings(Section):
    """The media path of one call."""

    lead_ms: int = Field(400, ge=200, le=400, description="audio kept ahead in the network's buffer")
    filler_after_s: float = Field(1.2, gt=0, le=30, description="a reply so late is announced by a prepared filler")
    failover_after_s: float = Field(2.5, gt=0, le=30, description="a stage so late gives the turn to its next provider")
    give_up_after_s: float = Field(6, gt=0, le=30, description="a turn so late ends in an apology and a hang-up")
    speculation: SpeculationSettings = SpeculationSettings()
    budgets: LatencyBudgets = LatencyBudgets()
    recording_part_s: float = Field(5, gt=0, le=5)
    recording_format: Literal["flac", "wav"] = "flac"


class LinkSettings(Section):
    """The socket between an ingress and a session process."""

    transport: Literal["auto", "unix", "tcp"] = "auto"
    attach_timeout_s: float = Field(5, gt=0)
    heartbeat_s: float = Field(1.0, gt=0)
    queue_messages: int = Field(500, ge=50, description="per call and direction; the oldest audio is dropped beyond it")


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    json_lines: bool = True


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    mode: Literal["local", "production"] = "local"
    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("parley"))
    tenant: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    objects: ObjectSettings = ObjectSettings()
    speech_to_text: SttName = "deepgram"
    language_model: LlmName = "groq"
    text_to_speech: TtsName = "cartesia"
    fallbacks: FallbackSettings = FallbackSettings()
    providers: ProviderSettings = ProviderSettings()
    telephony: TelephonySettings = TelephonySettings()
    dialing: DialingSettings = DialingSettings()
    agents: AgentSettings = AgentSettings()
    call: CallSettings = CallSettings()
    link: LinkSettings = LinkSettings()
    log: LogSettings = LogSettings()

    _stand_ins: frozenset[str] = PrivateAttr(default=frozenset())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The YAML document arrives as init values; the environment wins over it.
        return (env_settings, init_settings)

    @property
    def simulated(self) -> frozenset[str]:
        """The providers in use that are simulated: in mode `local` those without a key."""
        if self._stand_ins:
            return self._stand_ins
        missing = {entry.name for entry in self.entries() if entry.providers.without_key(entry.name)}
        if not self.telephony.vonage.configured:
            missing.add("vonage")
        return frozenset(missing)

    def entries(self, stage: StageKey | None = None) -> list[ProviderEntry]:
        """The list of a stage, the first entry first; None: of all three."""
        return [
            entry
            for key in (STAGE_KEYS if stage is None else (stage,))
            for entry in entries_of(key, getattr(self, key), self.providers, self.fallbacks)
        ]

    def with_stand_ins(self, update: Mapping[str, Any]) -> Settings:
        """A copy with the addresses and keys of the simulators filled in, that still knows what is simulated."""
        simulated = self.simulated
        copy = self.model_copy(update=update)
        copy._stand_ins = simulated
        return copy

    @property
    def public_url(self) -> str:
        """`server.public_url` without a trailing slash."""
        return str(self.server.public_url).rstrip("/")


def load_settings(path: Path | None = None) -> Settings:
    """Read, substitute, validate, and check the mode. Raises SettingsError, naming the key and the remedy."""
    env = os.environ
    file = path or Path(env.get("PARLEY_CONFIG") or configs_dir() / "parley.yaml")
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise SettingsError(f"configuration file {file} does not exist; set PARLEY_CONFIG to the right path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration file {file} cannot be read: {error}; see PARLEY_CONFIG") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{file}: expected a mapping of sections at the top, found {type(document).__name__}")
    _reject_unknown_env(env)
    try:
        settings = Settings(**_substitute(document, env, ""))
    except ValidationError as error:
        raise SettingsError(_explain(error, file)) from error
    except EnvSettingsError as error:
        raise SettingsError(
            f"{_unreadable(env)}: a list or a section is written as JSON in the environment, for example "
            """PARLEY_DIALING__ALLOWED_NUMBERS='["+12025550123"]', or in the YAML file"""
        ) from error
    check_fallbacks(settings)
    check_mode(settings)
    return settings


def check_fallbacks(settings: Settings) -> None:
    """Refuse an entry that is the same as one before it: it would fail with it."""
    for stage in STAGE_KEYS:
        seen: list[tuple[str, Section]] = []
        for entry in settings.entries(stage):
            section = getattr(entry.providers, entry.name)
            if (entry.name, section) in seen:
                raise SettingsError(
                    f"fallbacks.{stage}.{entry.place - 1}: the same as an entry before it ({entry.name}); "
                    "set another provider, or its model or address"
                )
            seen.append((entry.name, section))


def check_mode(settings: Settings) -> None:
    """Refuse what could place a call that should not be placed, or run production on a stand-in."""
    simulated = settings.simulated
    real = settings.mode == "production" or not settings.telephony.vonage.on_this_machine
    if settings.dialing.simulated_clock is not None and "vonage" not in simulated and real:
        raise SettingsError(
            "dialing.simulated_clock: telephony.vonage is a real phone network, and real people are called by the real "
            "time only. Remove the clock, or the Vonage keys."
        )
    if settings.mode == "production":
        problems = [_KEY_REMEDY[name] for name in sorted(simulated)]
        problems += [
            f"{key}.url: set {variable}"
            for key, variable in (("database", "DATABASE_URL"), ("redis", "REDIS_URL"), ("objects", "OBJECTS_URL"))
            if getattr(settings, key).url is None
        ]
        if not settings.public_url.startswith("https://"):
            problems.append("server.public_url: set PUBLIC_URL to the https:// address that the phone network reaches")
        if settings.server.media_url is not None and settings.server.media_url.scheme != "wss":
            problems.append("server.media_url: set MEDIA_URL to a wss:// address; the phone network opens no other")
        if problems:
            raise SettingsError("mode is production, and these settings are missing:\n  " + "\n  ".join(problems))
    elif "vonage" not in simulated and simulated:
        names = ", ".join(sorted(simulated))
        raise SettingsError(
            f"telephony.vonage is a real phone network while {names} would be simulated: real people must not hear a "
            "stand-in. Set the missing keys ("
            + "; ".join(_KEY_REMEDY[name] for name in sorted(simulated))
            + "), or remove the Vonage keys."
        )


_KEY_REMEDY = {
    "deepgram": "providers.deepgram.api_key: set DEEPGRAM_API_KEY",
    "groq": "providers.groq.api_key: set GROQ_API_KEY",
    "openai": "providers.openai.api_key: set OPENAI_API_KEY",
    "cartesia": "providers.cartesia.api_key: set CARTESIA_API_KEY",
    "vonage": "telephony.vonage: set VONAGE_APPLICATION_ID, VONAGE_PRIVATE_KEY, VONAGE_SIGNATURE_SECRET and "
    "VONAGE_FROM_NUMBER",
}

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _substitute(value: Any, env: Mapping[str, str], path: str) -> Any:
    if isinstance(value, dict):
        return {k: _substitute(v, env, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, env, f"{path}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = env.get(name)
        if found:
            return found
        if default is None:
            raise SettingsError(
                f"{path}: the environment variable {name} is not set; set it, or write ${{{name}:-}} if it may be empty"
            )
        return default

    return _VARIABLE.sub(replace, value)


def _reject_unknown_env(env: Mapping[str, str]) -> None:
    for variable in env:
        if not variable.upper().startswith(ENV_PREFIX) or variable.upper() in RESERVED_ENV:
            continue
        model: type[BaseModel] | None = Settings
        seen: list[str] = []
        for part in variable[len(ENV_PREFIX) :].lower().split("__"):
            if model is None:
                break
            if part not in model.model_fields:
                raise SettingsError(
                    f"environment variable {variable}: no setting '{'.'.join([*seen, part])}'"
                    + _nearest(part, model.model_fields)
                )
            seen.append(part)
            model = _branch(model, part)


def _unreadable(env: Mapping[str, str]) -> str:
    """The variables that should hold JSON and do not; their values are not shown."""
    names = []
    for variable, value in env.items():
        if not variable.upper().startswith(ENV_PREFIX) or variable.upper() in RESERVED_ENV:
            continue
        model: type[BaseModel] | None = Settings
        annotation: Any = None
        for part in variable[len(ENV_PREFIX) :].lower().split("__"):
            if model is None or part not in model.model_fields:
                break
            annotation = model.model_fields[part].annotation
            model = _branch(model, part)
        if (model is not None or get_origin(annotation) in (tuple, Mapping)) and not _is_json(value):
            names.append(variable)
    return ", ".join(names) or "a PARLEY_ environment variable"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _branch(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _nearest(name: str, valid: Mapping[str, object]) -> str:
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.4)
    return f"; did you mean '{match[0]}'?" if match else f"; valid names: {', '.join(sorted(valid))}"


def _explain(error: ValidationError, file: Path) -> str:
    lines = []
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        path = ".".join(location)
        if item["type"] == "extra_forbidden":
            model: type[BaseModel] | None = Settings
            for part in (name for name in location[:-1] if not name.isdigit()):
                model = _branch(model, part) if model is not None and part in model.model_fields else None
            hint = _nearest(location[-1], model.model_fields) if model is not None else ""
            lines.append(f"{path}: unknown key{hint}")
        else:
            # The offending value is not shown: it may be a secret.
            lines.append(f"{path}: {item['msg']}")
    return f"{file} (or the PARLEY_ environment) is not valid:\n  " + "\n  ".join(lines)
