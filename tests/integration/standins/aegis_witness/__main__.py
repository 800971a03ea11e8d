import asyncio
import sys

from standin import serve

if sys.argv[1:] != ["migrate"]:
    asyncio.run(serve("witness"))
