"""The python checker: what tests can do with code."""

from __future__ import annotations

import sys
import textwrap

import pytest
from python_checks import verdict

from colm_cpp.answers.checkers import Verdict, make_checker

PASSING: dict[str, tuple[str, str]] = {
    "values of every kind": (
        """
        import datetime, decimal, fractions, collections
        def same(x): return x
        """,
        """
        import datetime, decimal, fractions, collections, math
        inner = [1]
        for x in (0, -1, 2**200, 1.5, float("inf"), -0.0, 1j, "a\\ud800", b"\\0\\xff", True, None, ..., (1, (2,)), [],
                  [[]], {1: {2: [3]}}, {(1, 2): "x"}, {1, 2}, frozenset({1}), bytearray(b"x"), range(2, 9, 3),
                  slice(1, None),
                  datetime.date(2024, 2, 29), datetime.datetime(2024, 1, 2, 3, 4, 5, 6), datetime.timedelta(1, 2, 3),
                  decimal.Decimal("1.10"), fractions.Fraction(1, 3), collections.Counter("aab"), int, ValueError,
                  collections.OrderedDict(a=1), collections.deque([1, 2], 3), [inner, inner]):
            y = same(x)
            assert y == x and type(y) is type(x), (x, y)
        assert math.isnan(same(float("nan")))
        shared = same([inner, inner])
        assert shared[0] is shared[1]
        cycle = [1]
        cycle.append(cycle)
        assert same(cycle)[1][1][0] == 1
        counts = same(collections.defaultdict(int, a=1))
        counts["b"] += 1
        assert counts == {"a": 1, "b": 1}
        """,
    ),
    "arguments changed in place": (
        """
        def work(rows, seen, table):
            rows.sort(); rows[0].append("x"); seen.add(3); table["k"] = rows; del table["gone"]
            return rows
        """,
        """
        first, seen, table = [1], {1}, {"gone": 1}
        rows = [[2], first]
        assert work(rows, seen, table) is rows
        assert rows == [[1, "x"], [2]] and first == [1, "x"] and rows[0] is first
        assert seen == {1, 3} and table == {"k": rows} and table["k"] is rows
        """,
    ),
    "classes": (
        """
        class Account:
            rate = 2
            def __init__(self, start=0, *, owner=None): self.balance, self.owner = start, owner
            def deposit(self, n):
                if n < 0: raise ValueError("negative", n)
                self.balance += n
                return self
            @property
            def double(self): return self.balance * self.rate
            @classmethod
            def empty(cls): return cls()
            def __add__(self, other): return Account(self.balance + other.balance)
            def __eq__(self, other): return isinstance(other, Account) and self.balance == other.balance
            def __lt__(self, other): return self.balance < other.balance
            def __hash__(self): return hash(self.balance)
            def __len__(self): return self.balance
            def __getitem__(self, i): return i * self.balance
            def __str__(self): return f"account of {self.balance}"
            def __enter__(self): return self
            def __exit__(self, kind, *_): return kind is KeyError
        class Savings(Account): pass
        """,
        """
        a = Account(5, owner="x")
        assert a.deposit(3) is a and a.balance == 8 and a.double == 16 and a.owner == "x"
        a.balance = 1
        assert a.balance == 1 and str(a) == f"{a}" == "account of 1" and len(a) == 1 and a[3] == 3 and a
        assert not Account.empty() and Account.rate == 2 and Account.__name__ == "Account"
        assert a + Account(2) == Account(3) and a != Account(3) and a < Account(2) and a != 1
        assert len({a, Account(1), Account(2)}) == 2 and sorted([Account(2), a])[0] is a and max(a, Account(9))[1] == 9
        assert isinstance(a, Account) and isinstance(Savings(), Account) and issubclass(Savings, Account)
        assert not isinstance(3, Account) and not hasattr(a, "nothing") and callable(a.deposit)
        try: a.deposit(-1)
        except ValueError as error: assert error.args == ("negative", -1)
        else: assert False
        with a as same: raise KeyError
        assert same is a
        """,
    ),
    "iterators, closures and callbacks": (
        """
        def squares(n):
            for i in range(n): yield i * i
        def counter():
            count = [0]
            def step(by=1):
                count[0] += by
                return count[0]
            return step
        def apply(f, items): return [f(x) for x in items]
        def total(items): return sum(items)
        def walk(node): return 0 if node is None else node.value + walk(node.left) + walk(node.right)
        def mark(node): node.seen = [True]
        """,
        """
        assert list(squares(4)) == [0, 1, 4, 9] and next(squares(1)) == 0 and sum(squares(3)) == 5 and 4 in squares(3)
        step = counter()
        assert (step(), step(by=2)) == (1, 3)
        seen = []
        assert apply(lambda x: seen.append(x) or x + 1, [1, 2]) == [2, 3] and seen == [1, 2]
        assert apply(str.upper, "ab") == ["A", "B"] and apply(len, [[1], []]) == [1, 0]
        assert total(x for x in (1, 2)) == 3 and sorted([3, -4], key=abs) == [3, -4]
        class Node:
            def __init__(self, value, left=None, right=None): self.value, self.left, self.right = value, left, right
        tree = Node(1, Node(2), Node(3, Node(4)))
        assert walk(tree) == 10
        mark(tree)
        assert tree.seen == [True]
        def fails(x): raise LookupError("mine")
        try: apply(fails, [1])
        except LookupError as error: assert error.args == ("mine",)
        else: assert False
        """,
    ),
    "exceptions of the code": (
        """
        class Base(Exception): pass
        class Known(Base, ValueError): pass
        def fail(x): raise Known(x)
        def decode(): b"\\xff".decode()
        """,
        """
        from solution import Known
        for expected in (Known, Base, ValueError):
            try: fail(3)
            except expected as error: assert error.args == (3,) and type(error).__name__ == "Known"
            else: assert False
        try: decode()
        except UnicodeDecodeError as error: assert error.args[0] == "utf-8"
        """,
    ),
    "what derives from built-in classes": (
        """
        import collections, enum
        Point = collections.namedtuple("Point", "x y")
        class Color(enum.IntEnum): RED = 1
        class Plain(enum.Enum): A = 1
        def point(): return Point(1, 2)
        def red(): return Color.RED
        """,
        """
        assert point() == (1, 2) == point() and point().x == 1 and point()[1] == 2 and list(point()) == [1, 2]
        assert {point(): 5}[1, 2] == 5 and red() == 1 and red() + 1 == 2 and 1 <= red() < 2 and red() is Color.RED
        assert Plain.A == Plain["A"] != Plain and Plain.A.value == 1 and Plain(1).name == "A" and point() != (2, 1)
        """,
    ),
    "asynchronous functions": (
        "import asyncio\nasync def slow(x):\n    await asyncio.sleep(0)\n    return [x]\n",
        "import asyncio\nassert asyncio.run(slow(3)) == [3]\n",
    ),
    "state and names of the code": (
        """
        import math
        calls = 0
        def f():
            global calls
            calls += 1
        """,
        """
        import solution
        f(); f()
        assert calls == solution.calls == 2 and math.pi > 3 and not hasattr(solution, "nothing")
        solution.calls = 7
        try: nothing
        except NameError: pass
        else: assert False
        def check(candidate): assert candidate() is None
        check(f)
        """,
    ),
    "a file that the code wrote": (
        "def save():\n    open('x.txt', 'w').write('y')\n",
        "save()\nassert open('x.txt').read() == 'y'\n",
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_tests_do_with_code(name: str) -> None:
    code, tests = PASSING[name]
    assert verdict(code, textwrap.dedent(tests)) == Verdict(True, "passed")


@pytest.mark.slow
def test_numpy_arrays_are_values() -> None:
    code = "import numpy as np\ndef double(x): return x * 2\ndef mean(x): return np.mean(x)\n"
    tests = """
        assert isinstance(double(np.arange(3)), np.ndarray)
        np.testing.assert_array_equal(double(np.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3) * 2)
        assert mean(np.ones(3)) == 1.0 and abs(mean(np.ones(3)) - 1) < 1e-9 and mean([1, 2]).dtype == np.float64
        """
    checker = make_checker("python", time_limit=60, memory_limit_mb=4096)
    assert checker.check(code, textwrap.dedent(tests), "") == Verdict(True, "passed")


def test_a_built_in_name_is_the_codes_where_the_prompt_asks_for_it() -> None:
    right, wrong = "def max(a, b): return b if b > a else a\n", "def max(a, b): return 0\n"
    tests = "assert max(1, 2) == 2\n"
    assert verdict(right, tests, "Write a function max(a, b).").correct
    assert not verdict(wrong, tests, "Write a function max(a, b).").correct
    assert not verdict(wrong, tests, "Complete:\n```python\ndef max(a, b):\n    '''The larger.'''\n```").correct


def test_what_cannot_be_handed_over_is_named() -> None:
    assert verdict("def f(x): return x", "import sys\nf(sys)").extracted == "failed: TypeError"
    assert verdict("class A: pass", "class B(A): pass").extracted == "failed: TypeError"
    deep = "x = []\nfor _ in range(100_000): x = [x]\n"
    assert verdict(deep + "def f(): return x", "f()").extracted == "failed: RecursionError"
    assert verdict("def f(x): return x", deep + "f(x)").extracted == "failed: RecursionError"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
def test_a_large_answer_meets_the_memory_limit() -> None:
    checker = make_checker("python", memory_limit_mb=256)
    found = checker.check("def f(): return 'x' * 200_000_000", "f()", "")
    assert found == Verdict(False, "failed: MemoryError")
