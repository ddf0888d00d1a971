"""A writer process for the crash test: changes a gallery at random until it is killed.

Prints `begin OPERATION...` before a change and `done` once it is acknowledged: so the parent knows what must be there.
"""

import random
import sys
from pathlib import Path

from tests.runtime.gallery.synthetic import add, identity_of, reopen


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(seed)
    held = {int(number) for number in sys.argv[3].split(",") if number}
    with reopen(folder, writable=True) as gallery:
        print("ready", flush=True)
        while True:
            kind = chance.choice(["add", "add", "add", "remove", "remove", "compact", "fold"])
            if kind == "add":
                numbers = chance.sample(range(400), chance.choice([1, 5, 30]))
                _say("add", numbers)
                add(gallery, numbers)
                held |= set(numbers)
            elif kind == "remove" and held:
                victim = identity_of(chance.choice(sorted(held)))
                numbers = [number for number in held if identity_of(number) == victim]
                _say("remove", numbers)
                gallery.remove(identity=victim)
                held -= set(numbers)
            elif kind == "compact":
                _say("compact", [])
                gallery.compact()
            else:
                _say("fold", [])
                gallery.fold()
            print("done", flush=True)


def _say(kind: str, numbers: list[int]) -> None:
    print("begin", kind, ",".join(map(str, numbers)), flush=True)


if __name__ == "__main__":
    main()
