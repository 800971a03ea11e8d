"""Words that passwords are made of too often."""

from __future__ import annotations

# Whole, or with digits and signs around them: "Password1234!" is "password". What is shorter than
# the shortest password that is taken needs no mention unless people lengthen it like that.
_WORDS = """
abcdefgh abcdefghi abcdefghij abcdefghijkl access admin administrator adminadmin aegis
aegisaegis asdfasdf asdfgh asdfghjkl asdfghjklasdf azerty azertyuiop baseball batman changeme
changemenow charlie computer computers correcthorsebatterystaple default defaultpassword
donald donotuse dragon dragondragon football footballfootball freedom guest hallohallo
hello hellohello helloworld hospital iloveyou iloveyouforever iloveyousomuch internet jesus
jordan kennwort letmein letmeinnow letmeinplease login loveme lovelove master
mastermaster michael monkey monkeymonkey motdepasse mustang mypassword newpassword nopassword
ninja operator passpass passpasspass passphrase passw0rd passw0rdpassw0rd passwd
password passwordpassword passwort pokemon pokemonpokemon princess qazwsx qazwsxedc
qazwsxedcrfv qwerty qwertyqwerty qwertyuiop qwertyuiopas qwertyuiopasdf qwertyuiopasdfghjkl
qwertz qwertzuiop root rootroot secret secretsecret secretpassword shadow starwars
summer sunshine sunshinesunshine superman superuser supersecret temporary test testing
testpassword testtest testtesttest thisisapassword thisismypassword trustno welcome
welcomewelcome whatever winter yourpassword zaqwsx zxcvbnm zxcvbnmasdfghjkl
"""

COMMON = frozenset(_WORDS.split())
