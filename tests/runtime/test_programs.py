import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdeblend.runtime import options, programs
from jaxdeblend.runtime.host import MAPPINGS
from jaxdeblend.runtime.options import compile_options, is_known
from jaxdeblend.runtime.programs import Program
from tests.compilations import compilations


def counted(**options):
    """A program, and a list that gets longer by one at each trace."""
    traces = []

    def scale(image, factor, name="r"):
        traces.append(name)
        return image * factor, name

    return Program(scale, **options), traces


def test_each_shape_dtype_and_static_value_is_compiled_once():
    program, traces = counted()
    for _ in range(2):
        for image in (np.ones(2, np.float32), np.ones(3, np.float32), np.ones(3, np.int32)):
            program(image, 2)
        scaled, name = program(np.ones(3, np.float32), 2, name="g")
    assert (scaled.tolist(), name) == ([2, 2, 2], "g")
    assert len(traces) == program.n_compiled == 4


def test_inside_another_traced_function_it_is_a_part_of_it():
    program, traces = counted()
    assert jax.grad(lambda x: program(x, jnp.asarray(3.0))[0])(1.0) == 3.0
    assert len(traces) == 1 and program.n_compiled == 0


def test_donated_memory_is_taken_over():
    program, _ = counted(donated=(0,))
    given, kept = jnp.ones(5), jnp.asarray(2.0)
    assert program(given, kept)[0].tolist() == [2.0] * 5
    assert given.is_deleted() and not kept.is_deleted()


def test_threads_that_need_the_same_program_compile_it_once():
    program, traces = counted()
    start = threading.Barrier(4)

    def call(value):
        start.wait()
        return float(program(np.full(2, value, np.float32), 2)[0][0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [0.0, 2.0, 4.0, 6.0]
    assert len(traces) == 1


def test_a_failed_trace_can_be_tried_again():
    fails = [True, False]

    def function(x):
        if fails.pop(0):
            raise ValueError("not yet")
        return x

    program = Program(function)
    with pytest.raises(ValueError, match="not yet"):
        program(np.ones(1))
    assert program(np.ones(1)).tolist() == [1.0]


def test_the_least_recently_used_programs_are_dropped_when_mappings_are_scarce(monkeypatch, caplog):
    monkeypatch.setattr(programs, "KEPT", programs._Kept())
    program, traces = counted()
    for n in (1, 2, 3):
        program(np.ones(n, np.float32), 2)
    program(np.ones(1, np.float32), 2)
    shares = iter([0.9, 0.8, 0.7])
    monkeypatch.setattr(programs, "share_of_mappings", lambda: next(shares, 0.1))
    with caplog.at_level(logging.INFO, logger="jaxdeblend"):
        program(np.ones(4, np.float32), 2)
    assert "dropped 2 compiled programs" in caplog.text
    assert program.n_compiled == 2
    program(np.ones(1, np.float32), 2)
    assert len(traces) == 4, "the one that was used last is still there"


@pytest.mark.skipif(not MAPPINGS.exists(), reason="needs a system that lists the memory mappings of a process")
def test_dropped_programs_give_their_mappings_back(monkeypatch):
    monkeypatch.setattr(programs, "KEPT", programs._Kept())

    def many_operations(x):
        for k in range(60):
            x = jnp.sort(x + float(k))  # a sort is never fused with another
        return x

    def n_mappings():
        return MAPPINGS.read_bytes().count(b"\n")

    Program(many_operations)(np.ones(7, np.float32))
    taken = n_mappings()
    monkeypatch.setattr(programs, "share_of_mappings", lambda: 0.9)
    for n in range(8, 12):
        Program(many_operations)(np.ones(n, np.float32))
    assert n_mappings() < taken + 60


def test_options_that_jaxlib_does_not_know_are_left_out(monkeypatch, caplog):
    monkeypatch.setattr(options, "OPTIONS", {"cpu": {"xla_no_such_option": True}})
    is_known.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="jaxdeblend"):
        for n in (1, 2):
            counted(one_core=True)[0](np.ones(n), 2)
    assert caplog.text.count("xla_no_such_option is left out") == 1
    assert compile_options("cpu", one_core=True) == {"xla_cpu_multi_thread_eigen": False}


def test_a_jaxlib_without_any_option(monkeypatch):
    """The library's own programs compile where every compile option is refused."""
    known = jax.stages.Lowered.compile

    def refuse(lowered, compiler_options=None, **others):
        if compiler_options:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")
        return known(lowered, compiler_options, **others)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    is_known.cache_clear()
    assert compile_options("cpu", one_core=True) == {}
    assert counted(one_core=True)[0](np.ones(2), 2)[0].tolist() == [2.0, 2.0]
    monkeypatch.undo()
    is_known.cache_clear()


def test_other_platforms_get_no_options():
    assert compile_options("gpu", one_core=True) == compile_options("tpu") == {}


def test_weak_types_are_no_other_program():
    program = Program(lambda x: x * 2)
    assert float(program(jnp.asarray(1.0, dtype=jnp.float32))) == 2
    weak = jax.jit(lambda: 3.0)()
    assert weak.weak_type
    with compilations() as names:
        assert float(program(weak)) == 6
    assert program.n_compiled == 1
    assert not [name for name in names if "lambda" in name]
