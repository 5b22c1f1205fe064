"""hang.py PORT: a receiver that takes every question and never answers."""

import asyncio
import sys


async def take(reader, _writer):
    while await reader.read(65536):
        pass


async def main():
    async with await asyncio.start_server(take, "127.0.0.1", int(sys.argv[1]), backlog=1024) as server:
        await server.serve_forever()


asyncio.run(main())
