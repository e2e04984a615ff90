"""The settings as a whole: checked together, with the source of each value.

`Settings(...)` takes values from Python; `loading.load` gathers them from flags, the
environment, secret files and a YAML file. Both report every issue at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from dicomweb_cors_proxy.config import report, validation
from dicomweb_cors_proxy.config.cors_policies import policies
from dicomweb_cors_proxy.config.fields import POLICY_SCHEMA, SCHEMA, SettingFields
from dicomweb_cors_proxy.config.issues import ConfigurationError, SettingIssue, independent
from dicomweb_cors_proxy.config.kinds import own_origin
from dicomweb_cors_proxy.config.pydantic_errors import droppable, issue_of, without
from dicomweb_cors_proxy.cors.engine import CORSEngine

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from dicomweb_cors_proxy.dicomweb.resources import Service

__all__ = ["Settings"]


class Settings(SettingFields):
    """A whole and valid configuration, from nested mappings of the keys.

        Settings(upstream={"url": "http://orthanc:8042/dicom-web"},
                 cors={"allow_origins": ["https://viewer.example"]})

    Reads neither files nor the environment, `load` does. Raises ConfigurationError.
    """

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _source_warnings: tuple[SettingIssue, ...] = PrivateAttr(())

    def __init__(self, **values: Any) -> None:  # noqa: ANN401
        super().__init__(**values)

    @model_validator(mode="wrap")
    @classmethod
    def _report_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401
        """Report what pydantic finds in our words, and what else is wrong at the same time."""
        errors: list[ErrorDetails] = []
        try:
            settings = handler(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            settings = handler(without(data, {droppable(e["loc"]) for e in errors}))
        problems = [issue_of(error, SCHEMA, POLICY_SCHEMA) for error in errors]
        problems += independent(validation.problems(settings), of=problems)
        if problems:
            raise ConfigurationError(problems)
        return settings

    @property
    def sources(self) -> dict[str, str]:
        """Return the source of each key's value: `default`, `flag`, `file x.yaml` and so on."""
        return {
            key: self._sources.get(key) or ("argument" if self.value(key)[1] else "default")
            for key in SCHEMA.settings
        }

    def effective(self) -> list[report.Effective]:
        """Return all settings as they are in force."""
        defaults = {key: setting.default for key, setting in SCHEMA.settings.items()}
        return report.effective(self, self.sources, defaults)

    def service_urls(self) -> dict[Service, str]:
        """Return the URL that each service is served from; those without one are not served."""
        return self.upstream.service_urls()

    def cors_engine(self) -> CORSEngine:
        """Compile the CORS policies."""
        own = None if self.public_url is None else own_origin(self.public_url)
        return CORSEngine(policies(self.cors), own_origin=own)

    def warnings(self) -> tuple[str, ...]:
        """Return warnings, in sentences, about valid settings that are probably mistakes."""
        return tuple(map(str, (*report.warnings(self), *self._source_warnings)))
