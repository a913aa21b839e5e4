"""Files from a web server, which may say anything and take any time."""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from caffe_port._version import __version__
from caffe_port.models import ReleasedFile, Repository
from caffe_port.models.progress import Progress
from caffe_port.models.receiving import PATIENCE, SourceError, keep, reason_of
from caffe_port.printing import printable

__all__ = ["download"]

_TIMEOUT = 10.0
"""Seconds without a byte."""

_SCHEMES: frozenset[str] = frozenset({"https"})  # tests add http for a server of their own


def download(source: Repository, file: ReleasedFile, room: Path, progress: Progress) -> None:
    """A file of a repository, to its name in the folder `room`.

    Raises: SourceError if the server does not give exactly that file in time; OSError where the system refuses to
    write.
    """
    url = source.url + file.name
    if urlsplit(url).scheme not in _SCHEMES:
        raise SourceError(f"{url} is not https")
    with _opened(url) as response:
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(file.size):
            raise SourceError(f"{url}: {printable(announced)} bytes announced, {file.size} expected")
        keep(response, file, room, url, progress)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # type: ignore[no-untyped-def]
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in _SCHEMES:
            raise SourceError(f"{req.full_url} redirects to {printable(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(url: str) -> http.client.HTTPResponse:
    """The response, as soon as its headers are there.

    In a thread of its own, since nothing else limits the time: a timeout of a socket is for each byte, and that of a
    name's address is the system's.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"caffe_port/{__version__}"})
    answers: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT))
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits tells it
            answers.put(error)

    threading.Thread(target=ask, name="ask for a file", daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise SourceError(f"{url}: no answer in {PATIENCE:.0f} s") from None
    if not isinstance(answer, Exception):
        return answer
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
        raise SourceError(f"{url}: HTTP status {answer.code} {reason_of(Exception(answer.reason))}") from answer
    if isinstance(answer, OSError | http.client.HTTPException | ValueError):
        raise SourceError(f"{url}: {reason_of(answer)}") from answer
    raise answer
