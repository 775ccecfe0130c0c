"""For `requests`: a session whose every connection ends in an enclave that was admitted.

    with anchorhold.requests.session(anchorhold.Connector(pcrs={0: PCR0})) as session:
        session.get("https://cards.example:8443/")
"""

from __future__ import annotations

from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.poolmanager
from requests.utils import select_proxy

from ._channel import Attested, Connector


def session(connector: Connector) -> requests.Session:
    """A session for `https://` addresses alone, which knows no other way than through `connector`: no proxies, none of the
    environment's either."""
    one = requests.Session()
    one.trust_env = False
    one.adapters.clear()
    one.mount("https://", Adapter(connector))
    return one


class Adapter(requests.adapters.HTTPAdapter):
    """For `Session.mount`. What is not mounted on it goes another way: rather take `session`.

    `verify` and `cert` mean nothing here: the document is verified, always, and certificates' names are not looked at.
    """

    def __init__(self, connector: Connector, **more: Any) -> None:
        self._connector = connector
        super().__init__(**more)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        self.poolmanager = _Pools(self._connector, num_pools=connections, maxsize=maxsize, block=block)

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        if not request.url.lower().startswith("https://"):
            raise requests.exceptions.InvalidSchema("an enclave is reached by https:// alone")
        if select_proxy(request.url, proxies):
            raise requests.exceptions.InvalidProxyURL("an enclave is reached without a proxy")
        return self.poolmanager.connection_from_url(request.url)

    def proxy_manager_for(self, proxy: str, **_: Any) -> Any:
        raise requests.exceptions.InvalidProxyURL("an enclave is reached without a proxy")

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the document says who it is."""


class _Pools(urllib3.PoolManager):
    def __init__(self, connector: Connector, **more: Any) -> None:
        super().__init__(**more)

        class Connection(_Connection):
            attested_by = connector

        class Pool(_Pool):
            ConnectionCls = Connection

        self.pool_classes_by_scheme = {"https": Pool}


class _Connection(urllib3.connection.HTTPConnection):
    """Speaks HTTP over a channel, or over nothing."""

    attested_by: Connector
    default_port = 443

    def _new_conn(self) -> Any:
        if self._tunnel_host:
            raise requests.exceptions.InvalidProxyURL("an enclave is reached without a proxy")
        return Attested(self.attested_by, super()._new_conn(), self.host)


class _Pool(urllib3.HTTPConnectionPool):
    scheme = "https"
    ConnectionCls = _Connection

    def __init__(self, host: str, port: Any = None, **more: Any) -> None:
        for word in urllib3.poolmanager.SSL_KEYWORDS:
            more.pop(word, None)
        super().__init__(host, port, **more)
