"""The endpoints file: the one place where the addresses of a running stack stand."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from infra.stack.files import write_atomic
from infra.stack.layout import Layout
from liverank.settings import Endpoints, NamespaceEndpoints


def publish(layout: Layout, endpoints: Endpoints) -> None:
    """Replace the file in one step; only its owner may read it, since an address can hold a password."""
    write_atomic(layout.endpoints, endpoints.model_dump_json(indent=1) + "\n", mode=0o600)


def withdraw(layout: Layout) -> None:
    """Remove the file: nothing of this home is up."""
    layout.endpoints.unlink(missing_ok=True)


def with_namespaces(endpoints: Endpoints, namespaces: Mapping[str, NamespaceEndpoints]) -> Endpoints:
    """The same stack with these namespaces; the first one is repeated at the top."""
    first = endpoints.namespace if endpoints.namespace in namespaces else next(iter(namespaces), endpoints.namespace)
    top = namespaces.get(first, NamespaceEndpoints())
    update = {name: getattr(top, name) for name in NamespaceEndpoints.model_fields}
    return endpoints.model_copy(update={**update, "namespace": first, "namespaces": dict(namespaces)})


def without_password(url: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{parts.hostname}:{parts.port}"))
