"""The settings tree: sources and their order, errors that name the key and the remedy, and what modes refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import SettingsError
from serve_app.local_endpoints import LocalEndpoints, SimulatedVonage, needs_local_services, with_local_services
from serve_app.settings import Settings, load_settings

VONAGE = {
    "VONAGE_APPLICATION_ID": "app",
    "VONAGE_PRIVATE_KEY": "key",
    "VONAGE_SIGNATURE_SECRET": "secret",
    "VONAGE_FROM_NUMBER": "+12015550100",
}
AI_KEYS = {"DEEPGRAM_API_KEY": "d", "GROQ_API_KEY": "g", "CARTESIA_API_KEY": "c"}
URLS = {
    "DATABASE_URL": "postgresql+asyncpg://u@db/parley",
    "REDIS_URL": "redis://r",
    "OBJECTS_URL": "s3://bucket",
    "PUBLIC_URL": "https://calls.example.com",
}


def put(monkeypatch: pytest.MonkeyPatch, *variables: dict[str, str]) -> None:
    for group in variables:
        for name, value in group.items():
            monkeypatch.setenv(name, value)


def refusal(tmp_path: Path, text: str) -> str:
    """What is said of a settings file."""
    file = tmp_path / "parley.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    return str(caught.value)


def test_without_any_key_everything_is_simulated() -> None:
    settings = load_settings()
    assert settings.mode == "local"
    assert settings.simulated == {"deepgram", "groq", "cartesia", "vonage"}
    assert needs_local_services(settings)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "parley.yaml"
    file.write_text("providers: {groq: {model: from-file, temperature: 0.1}}")
    monkeypatch.setenv("PARLEY_PROVIDERS__GROQ__MODEL", "from-env")
    groq = load_settings(file).providers.groq
    assert (groq.model, groq.temperature) == ("from-env", 0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("providers: {deepgram: {modell: x}}", "providers.deepgram.modell: unknown key; did you mean 'model'?"),
        ("telefony: {}", "telefony: unknown key; did you mean 'telephony'?"),
        ("call: {lead_ms: 900}", "call.lead_ms"),
        ("mode: staging", "mode: Input should be 'local' or 'production'"),
        ("- a list", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("providers: {groq: {api_key: '${NOT_SET_ANYWHERE}'}}", "variable NOT_SET_ANYWHERE is not set"),
    ],
)
def test_errors_name_the_key_and_the_remedy(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize("variable", ["PARLEY_DIALING__ALLOWED_NUMBERS", "PARLEY_SERVER"])
def test_a_variable_that_should_be_json_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "+12025550199")
    with pytest.raises(SettingsError, match=f"^{variable}: .*JSON") as caught:
        load_settings()
    assert "+12025550199" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x80\xff")
    for file in (tmp_path, binary):
        with pytest.raises(SettingsError, match="cannot be read"):
            load_settings(file)


def test_a_vonage_account_that_is_half_set_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().telephony.vonage.missing == ()
    put(monkeypatch, {"VONAGE_APPLICATION_ID": "app", "VONAGE_PRIVATE_KEY": "key"})
    assert load_settings().telephony.vonage.missing == ("VONAGE_SIGNATURE_SECRET", "VONAGE_FROM_NUMBER")


def test_an_unknown_variable_is_an_error_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_PROVIDERS__GROK__MODEL", "x")
    with pytest.raises(SettingsError, match=r"no setting 'providers\.grok'; did you mean 'groq'"):
        load_settings()


def test_an_error_never_shows_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "parley.yaml"
    file.write_text("telephony: {vonage: {private_key: [very-secret-value]}}")
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert "very-secret-value" not in str(caught.value)


def test_the_tree_is_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.call.lead_ms = 250  # type: ignore[misc]


def test_a_real_network_with_a_simulated_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, VONAGE, {"DEEPGRAM_API_KEY": "d", "CARTESIA_API_KEY": "c"})
    with pytest.raises(SettingsError, match=r"groq would be simulated.*GROQ_API_KEY"):
        load_settings()
    put(monkeypatch, {"GROQ_API_KEY": "g"})
    assert load_settings().simulated == frozenset()


def test_production_names_everything_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_MODE", "production")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for name in (*AI_KEYS, "VONAGE_APPLICATION_ID", *URLS):
        assert name in str(caught.value)
    put(monkeypatch, VONAGE, AI_KEYS, URLS)
    assert not needs_local_services(load_settings())


def test_an_own_openai_compatible_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_LANGUAGE_MODEL", "openai")
    assert "openai" in load_settings().simulated
    monkeypatch.setenv("PARLEY_PROVIDERS__OPENAI__BASE_URL", "http://127.0.0.1:11434/v1")
    assert "openai" not in load_settings().simulated


def test_local_services_fill_in_what_is_missing_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"GROQ_API_KEY": "real", "REDIS_URL": "redis://mine"})
    account = SimulatedVonage(api_key="a", application_id="b", private_key="c", public_key="d", signature_secret="e")
    endpoints = LocalEndpoints(
        database_url="sqlite+aiosqlite:////x.db", redis_url=None, simulators_url="http://127.0.0.1:1", vonage=account
    )
    settings: Settings = with_local_services(load_settings(), endpoints)
    assert settings.simulated == {"deepgram", "cartesia", "vonage"}
    assert settings.redis.url == "redis://mine"
    assert settings.database.url == "sqlite+aiosqlite:////x.db"
    assert settings.providers.groq.base_url == "https://api.groq.com"
    assert settings.providers.deepgram.websocket_url == "ws://127.0.0.1:1"
    assert settings.telephony.vonage.base_url == "http://127.0.0.1:1"
    assert settings.telephony.vonage.configured


FALLBACKS = """
fallbacks:
  language_model:
    - {provider: groq, model: openai/gpt-oss-120b}
    - {provider: openai, base_url: http://127.0.0.1:11434/v1}
  text_to_speech:
    - {provider: cartesia, websocket_url: wss://second.example.com, voice: other}
"""


def test_a_stage_has_a_list_of_providers_each_with_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "parley.yaml"
    file.write_text(FALLBACKS + "providers: {groq: {temperature: 0.1}}")
    settings = load_settings(file)
    first, larger, own = settings.entries("language_model")
    assert [entry.name for entry in (first, larger, own)] == ["groq", "groq", "openai"]
    assert first.providers.groq.model == "openai/gpt-oss-20b"
    assert (larger.providers.groq.model, larger.providers.groq.temperature) == ("openai/gpt-oss-120b", 0.1)
    assert own.providers.openai.base_url == "http://127.0.0.1:11434/v1"
    assert (first.label, own.label) == ("groq", "openai (fallbacks.language_model.1)")
    _, second = settings.entries("text_to_speech")
    assert (second.providers.cartesia.voice, second.providers.cartesia.model) == ("other", "sonic-3")
    assert [entry.stage for entry in settings.entries()] == ["speech_to_text"] + ["language_model"] * 3 + [
        "text_to_speech"
    ] * 2


def test_a_second_entry_that_nobody_could_reach_is_refused_like_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, VONAGE, AI_KEYS, {"PARLEY_FALLBACKS__LANGUAGE_MODEL": '[{"provider": "openai"}]'})
    with pytest.raises(SettingsError, match=r"openai would be simulated.*OPENAI_API_KEY"):
        load_settings()
    own = '[{"provider": "openai", "base_url": "http://10.0.0.9/v1"}]'
    monkeypatch.setenv("PARLEY_FALLBACKS__LANGUAGE_MODEL", own)
    assert load_settings().simulated == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fallbacks: {language_model: [{provider: groq}]}", "fallbacks.language_model.0: the same as an entry before"),
        ("fallbacks: {language_model: [{provider: cartesia}]}", "fallbacks.language_model.0.provider"),
        (
            "fallbacks: {text_to_speech: [{provider: cartesia, modell: x}]}",
            "modell: unknown key; did you mean 'model'?",
        ),
        (
            "providers: {deepgram: {eager_eot_threshold: 0.8}}",
            "providers.deepgram: Value error, eager_eot_threshold (0.8) is above eot_threshold (0.7); lower",
        ),
        ("providers: {deepgram: {eager_eot_threshold: 0.2}}", "providers.deepgram.eager_eot_threshold"),
        ("call: {speculation: {min_hit_rat: 1}}", "did you mean 'min_hit_rate'?"),
    ],
)
def test_lists_of_providers_and_drafts_are_checked_at_the_start(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)
