import asyncio

from standin import serve

asyncio.run(serve("sandbox"))
