"""Sends each of the requests that the first argument lists, one after the other, and prints what came of
them: statuses, or the reason of a failure. The second argument says with what: http.client, which sends
all of a body before it listens, or requests."""

import http.client
import json
import ssl
import sys
from urllib.parse import urlsplit

import requests


def by_http_client(request, body, authority):
    url = urlsplit(request["url"])
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection(url.netloc, context=context, timeout=60)
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
    target = url.path + ("?" + url.query if url.query else "")
    connection.request(request["method"], target, body=body, headers=request["headers"])
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def by_requests(session, request, body, authority):
    answer = session.request(
        request["method"],
        request["url"],
        data=body,
        headers=request["headers"],
        verify=authority,
        timeout=60,
    )
    return answer.status_code


def main():
    todo, client, authority = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    session = requests.Session()
    outcomes = []
    for request in todo:
        body = b"x" * request["size"] if "size" in request else request["text"].encode()
        try:
            if client == "http.client":
                outcomes.append(by_http_client(request, body, authority))
            else:
                outcomes.append(by_requests(session, request, body, authority))
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    print(json.dumps(outcomes))


main()
