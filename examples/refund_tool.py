"""An HTTP tool as a company might have it: it pays refunds, and it has never heard of the control plane.

    python examples/refund_tool.py --port 9100

It trusts whoever holds its own API key, which only the gateway does.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from aiohttp import web

refund_numbers = itertools.count(1)


async def refund(request: web.Request) -> web.Response:
    if request.headers.get("x-api-key") != request.app[API_KEY]:
        return web.json_response({"error": "wrong API key"}, status=401)
    order = await request.json()
    paid = {"refund": f"R-{next(refund_numbers):05}", "order": order["order"], "amount": order["amount"]}
    return web.json_response(paid | {"paid_to": order.get("account", "card on file")})


API_KEY = web.AppKey("api_key", str)


def application(api_key: str) -> web.Application:
    app = web.Application()
    app[API_KEY] = api_key
    app.router.add_post("/refund", refund)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--api-key-file", type=Path, required=True, help="file that holds the key callers must send")
    options = parser.parse_args()
    web.run_app(
        application(options.api_key_file.read_text("utf-8").strip()),
        host="127.0.0.1",
        port=options.port,
        print=None,
        access_log=None,
    )


if __name__ == "__main__":
    main()
