# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""What `make bench` runs as "a Python script": words counted, sorted and joined, a sieve, objects,
big numbers and exceptions, without a module. Prints one number, which must be that of work.out."""


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while True:
            side = "left" if key < node.key else "right"
            below = getattr(node, side)
            if below is None:
                setattr(node, side, Node(key))
                return
            node = below

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.key
        if self.right:
            yield from self.right.walk()


def numbers(count, seed=1):
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % 2147483648
        yield seed >> 8


def words(count):
    for n in numbers(count):
        yield "".join(chr(97 + (n >> shift) % 13) for shift in (0, 4, 8))


def counted(text):
    table = {}
    for word in text.split():
        try:
            table[word] += 1
        except KeyError:
            table[word] = 1
    ranked = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    return sum(i * n for i, (_, n) in enumerate(ranked)) + len(" ".join(w for w, _ in ranked))


def primes(limit):
    sieve = bytearray([1]) * limit
    for n in range(2, int(limit ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n::n] = bytes(len(range(n * n, limit, n)))
    return sum(sieve) - 2


def tree(count):
    keys = numbers(count, 7)
    root = Node(next(keys))
    for key in keys:
        root.insert(key)
    return sum(i * key for i, key in enumerate(root.walk()))


total = counted(" ".join(words(40000))) + primes(400000) + tree(8000) + pow(3, 20001, 10 ** 300)
print(total % 1000000007)
