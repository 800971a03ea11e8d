import asyncio
import sys

from standin import serve

if sys.argv[1:] != ["migrate"]:
    asyncio.run(serve(sys.argv[1] if sys.argv[1:] else "server"))
