"""A provider of identities that people run for their organisations, for the end-to-end tests: Canaille, with its own pages.

    python canaille_idp.py CALLBACK DATABASE

CALLBACK is where the node under test takes people back, DATABASE a file for what it knows, which it makes. Prints its address in one line when it listens, on a free port of
127.0.0.1, and ends with its standard input. Each line there changes what it is, and is answered with `done`:

    rotate           signs with a new key, and no longer shows the old one
    group NAME       has `ada` in this group alone
    lock             closes the account of `ada`
    client ID        says for the client ID what it says
    clock SECONDS    puts the time into its tokens by a clock that runs ahead by so much
"""

import datetime
import logging
import secrets
import sys
import threading
import time

from authlib.oidc.core.grants import _legacy as words
from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from canaille.oidc import provider
from joserfc.jwk import RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

# How long its tokens are good. So short that the node asks again within a test, which is after half of it.
LIFE_S = 8


class Quiet(WSGIRequestHandler):
    """Says nothing of requests."""

    def log(self, *args):
        pass


class Door:
    """Listens before there is a provider, which has to know its own address."""

    app = None

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)


class Clock:
    """The clock behind the words about who logged in; sessions and pages have the real one."""

    ahead_s = 0

    def time(self):
        return time.time() + self.ahead_s


def key():
    return RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)


def begin(callback):
    ada = models.User(
        user_name="ada",
        given_name="Ada",
        family_name="Byron",
        formatted_name="Ada Byron",
        emails=["ada@org.example"],
        password="correct horse",
    )
    Backend.instance.save(ada)
    Backend.instance.save(models.Group(display_name="oc-field", members=[ada]))
    for name in ("node", "other"):
        client = models.Client(
            client_id=name,
            client_secret="s3cret",
            client_name=name,
            # Trusted, so that nobody is asked whether it may know who they are.
            client_uri="http://127.0.0.1/",
            redirect_uris=[callback],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            token_endpoint_auth_method="client_secret_basic",
            scope=["openid", "profile", "groups"],
        )
        Backend.instance.save(client)
        client.audience = [client]
        Backend.instance.save(client)


def change(app, clock, asked):
    backend = Backend.instance
    ada = backend.get(models.User, user_name="ada")
    match asked:
        case ["rotate"]:
            app.config["CANAILLE_OIDC"]["ACTIVE_JWKS"] = [key()]
        case ["group", name]:
            for group in backend.query(models.Group):
                backend.delete(group)
            backend.save(models.Group(display_name=name, members=[ada]))
        case ["lock"]:
            ada.lock_date = datetime.datetime.now(datetime.timezone.utc)
            backend.save(ada)
        case ["client", name]:
            client = backend.get(models.Client, client_id="node")
            client.audience = [backend.get(models.Client, client_id=name)]
            backend.save(client)
        case ["clock", seconds]:
            clock.ahead_s = int(seconds)
        case _:
            sys.exit(f"what is {asked}?")


def main():
    door, clock = Door(), Clock()
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    address = f"127.0.0.1:{server.server_port}"
    kinds = ("authorization_code", "refresh_token")
    # Its own are the same for two logins within a second, and it keeps none twice.
    provider.generate_access_token = lambda **_: secrets.token_urlsafe(36)
    app = door.app = create_app(
        {
            "SECRET_KEY": "of a test",
            "SERVER_NAME": address,
            "PREFERRED_URL_SCHEME": "http",
            "OAUTH2_TOKEN_EXPIRES_IN": dict.fromkeys(kinds, LIFE_S),
            # Not in memory: there, a code is looked for by what it is or whose it is.
            "CANAILLE": {"DATABASE": "sql"},
            "CANAILLE_SQL": {"DATABASE_URI": f"sqlite:///{sys.argv[2]}"},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key()]},
        }
    )
    logging.disable(logging.CRITICAL)
    words.time = clock
    with app.app_context():
        begin(sys.argv[1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://{address}", flush=True)
    for line in sys.stdin:
        with app.app_context():
            change(app, clock, line.split())
        print("done", flush=True)


main()
