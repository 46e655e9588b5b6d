"""Settings are frozen, bounded, documented, and a typo is found out."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.__main__ import main
from service.settings import Settings, SettingsError, check_environment
from service.settings_table import settings_table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_document_has_the_table_that_the_settings_make() -> None:
    assert settings_table() in DOCUMENT.read_text(), "run: python -m service.settings_table"


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENET_API_KEY", "")
    assert Settings().api_key is None
    monkeypatch.setenv("MOBILENET_API_KEY", "s3cret")
    key = Settings().api_key
    assert key is not None
    assert key.get_secret_value() == "s3cret"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MOBILENET_PORT", "1"), ("mobilenet_port", "1"), ("PATH", "/bin"), ("MOBILENETS", "")],
)
def test_known_and_foreign_variables_pass(name: str, value: str) -> None:
    check_environment({name: value})


def test_an_unknown_variable_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"MOBILENET_QUEUE_LENGHT.*MOBILENET_QUEUE_LENGTH"):
        check_environment({"MOBILENET_QUEUE_LENGHT": "3"})


def test_without_a_home_the_state_directory_has_to_be_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for a user that the system does not know, in a container."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_STATE_HOME", "MOBILENET_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert main([]) == 2
    told = capsys.readouterr().err
    assert told == "mobilenet-service: there is no home directory to keep state in; set MOBILENET_STATE_DIR\n"
    monkeypatch.setenv("MOBILENET_STATE_DIR", "/state")
    assert Settings().state_dir == Path("/state")
