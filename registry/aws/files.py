"""Credentials and region in the environment and in the shared files. Pure but for ``read``.

Names as in AWS' own tools: https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from typing import Final

from registry.aws.signing import Credentials
from registry.base import RegistryError

__all__ = ["Shared", "from_environment", "profile_of", "read", "region_of"]

Sections = Mapping[str, Mapping[str, str]]
_ROLES: Final = ("role_arn", "credential_process", "sso_session", "sso_start_url")


class Shared:
    """The shared files, as far as one profile is concerned."""

    def __init__(self, credentials: Sections, config: Sections, profile: str) -> None:
        self.profile = profile
        self._credentials = credentials.get(profile, {})
        name = profile if profile == "default" else f"profile {profile}"
        self._config = config.get(name, {})

    @property
    def known(self) -> bool:
        return bool(self._credentials or self._config)

    @property
    def region(self) -> str:
        return self._config.get("region") or self._credentials.get("region", "")

    def keys(self) -> Credentials | None:
        """Raises RegistryError for a profile of a kind that is not known here."""
        for section in (self._credentials, self._config):
            access, secret = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
            if access and secret:
                return Credentials(access, secret, section.get("aws_session_token", ""))
        for name in _ROLES:
            if name in self._config:
                raise RegistryError(
                    f"the profile {self.profile!r} uses {name}, which is not known here: give"
                    " keys, a web identity, or the role of the container or instance"
                )
        return None


def profile_of(option: str | None, environment: Mapping[str, str]) -> str:
    return option or environment.get("AWS_PROFILE") or "default"


def region_of(environment: Mapping[str, str]) -> str:
    return environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""


def from_environment(environment: Mapping[str, str]) -> Credentials | None:
    access = environment.get("AWS_ACCESS_KEY_ID", "")
    secret = environment.get("AWS_SECRET_ACCESS_KEY", "")
    if access and secret:
        return Credentials(access, secret, environment.get("AWS_SESSION_TOKEN", ""))
    return None


def read(profile: str, environment: Mapping[str, str]) -> Shared:
    """Reads files: call it in a thread. Raises RegistryError for files that cannot be read, not
    for files that are not there."""
    home = environment.get("HOME", "")
    credentials = environment.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials"
    config = environment.get("AWS_CONFIG_FILE") or f"{home}/.aws/config"
    return Shared(_sections(credentials), _sections(config), profile)


def _sections(path: str) -> Sections:
    parser = configparser.RawConfigParser(strict=False)
    place = os.path.expanduser(path)
    try:
        with open(place, encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{place} cannot be read: {error}") from None
    except configparser.Error as error:
        # Its message would show the line, which may be a key.
        raise RegistryError(f"{place} cannot be read: {type(error).__name__}") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}
