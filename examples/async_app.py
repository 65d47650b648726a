"""The same with asyncio: slates for many users at once."""

from __future__ import annotations

import asyncio

from liverank import AsyncClient


async def main() -> None:
    async with AsyncClient() as client:
        replies = await asyncio.gather(*(client.rank(f"user-{n}", k=3) for n in range(8)))
    for n, reply in enumerate(replies):
        print(f"user-{n}:", ", ".join(item.item_id for item in reply.items))


if __name__ == "__main__":
    asyncio.run(main())
