"""What a request to the API server may be, and which objects it is about: the rules of
kubernetes.io/docs/reference/using-api/api-concepts, without any I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

Object = dict[str, Any]

ROOTS = {
    "services": ("/api/v1", "v1", "Service", ""),
    "nodes": ("/api/v1", "v1", "Node", ""),
    "endpointslices": (
        "/apis/discovery.k8s.io/v1",
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "discovery.k8s.io",
    ),
}
PARAMETERS = {
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "timeoutSeconds",
    "watch",
}


class Failure(Exception):
    """A Status with a code of its own."""

    def __init__(self, code: int, reason: str, message: str, **headers: str) -> None:
        self.code, self.headers = code, headers
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A label selector. Raises Failure."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    for part in re.split(r",(?![^()]*\))", text) if text else ():
        if found := re.fullmatch(r"!\s*([\w./-]+)", part):
            tests.append(lambda labels, k=found[1]: k not in labels)
        elif found := re.fullmatch(r"([\w./-]+)\s*(=|==|!=)\s*([\w.-]*)", part):
            same = found[2] != "!="
            tests.append(lambda labels, k=found[1], v=found[3], s=same: (labels.get(k) == v) is s)
        elif found := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s+\(([^()]*)\)", part):
            values = {v.strip() for v in found[3].split(",")}
            inside = found[2] == "in"
            tests.append(lambda labels, k=found[1], v=values, i=inside: (labels.get(k) in v) is i)
        elif found := re.fullmatch(r"[\w./-]+", part):
            tests.append(lambda labels, k=part: k in labels)
        else:
            raise Failure(400, "BadRequest", f"unable to parse requirement: {part!r}")
    return lambda labels: all(test(labels) for test in tests)


class Query:
    """A request for a collection, checked. Raises Failure."""

    def __init__(self, resource: str, namespace: str, params: Mapping[str, str]) -> None:
        if unknown := set(params) - PARAMETERS:
            raise Failure(400, "BadRequest", f"unknown parameters: {sorted(unknown)}")
        self.resource, self.namespace = resource, namespace
        self.watch = self._flag(params, "watch")
        self.bookmarks = self._flag(params, "allowWatchBookmarks")
        self.version = params.get("resourceVersion", "")
        if self.version and not self.version.isdecimal():
            raise Failure(400, "BadRequest", f"Invalid value: {self.version!r}: resourceVersion")
        self.limit = self._number(params, "limit")
        self.timeout = self._number(params, "timeoutSeconds") or 1800
        self.token = params.get("continue", "")
        if self.token and self.version not in ("", "0"):
            raise Failure(
                400,
                "BadRequest",
                "specifying resource version is not allowed when using continue",
            )
        if self.watch and (self.limit or self.token):
            raise Failure(400, "BadRequest", "a watch has no pages")
        if self.bookmarks and not self.watch:
            raise Failure(400, "BadRequest", "bookmarks are for watches")
        self.labels = selector(params.get("labelSelector", ""))
        self.fields = dict(
            part.split("=", 1) for part in params.get("fieldSelector", "").split(",") if part
        )
        if unknown := set(self.fields) - {"metadata.name", "metadata.namespace"}:
            raise Failure(400, "BadRequest", f"field label not supported: {sorted(unknown)[0]}")

    @staticmethod
    def _flag(params: Mapping[str, str], name: str) -> bool:
        text = params.get(name, "false")
        if text not in ("true", "1", "false", "0"):
            raise Failure(400, "BadRequest", f"Invalid value: {text!r}: {name}")
        return text in ("true", "1")

    @staticmethod
    def _number(params: Mapping[str, str], name: str) -> int:
        text = params.get(name, "0")
        if not text.isdecimal():
            raise Failure(400, "BadRequest", f"Invalid value: {text!r}: {name}")
        return int(text)

    def wants(self, found: Object | None) -> bool:
        if found is None:
            return False
        meta = found["metadata"]
        names = {"metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", "")}
        return (
            self.namespace in ("", meta.get("namespace"))
            and self.labels(meta.get("labels") or {})
            and all(names[field] == value for field, value in self.fields.items())
        )


def place(path: str) -> tuple[str, str, str]:
    """Resource, namespace and name. Raises Failure."""
    for resource, (root, *_) in ROOTS.items():
        found = re.fullmatch(rf"{root}(?:/namespaces/([^/]+))?/{resource}(?:/([^/]+))?", path)
        if found:
            return resource, unquote(found[1] or ""), unquote(found[2] or "")
    raise Failure(404, "NotFound", "the server could not find the requested resource")
