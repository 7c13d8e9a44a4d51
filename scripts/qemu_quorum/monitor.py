# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""A connection to the QMP socket of a QEMU or a storage daemon"""

import asyncio
import re
from typing import Any, Awaitable, List, Optional, Tuple, TypeVar, Union

from .basics import NOT_WELL, Dictionary, Failure, Gone, Stuck

try:
    from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError
    HAVE_QMP = True
except ImportError:
    HAVE_QMP = False    # some commands do without

    class ExecuteError(Exception):  # type: ignore[no-redef]
        """QEMU has refused."""


__all__ = ['ANSWER_SECONDS', 'HAVE_QMP', 'ExecuteError', 'Monitor']

T = TypeVar('T')

ANSWER_SECONDS = 30.0       # in which QEMU should have answered a question
GREETING_SECONDS = 5.0


class Monitor:
    """A QMP connection, one thing after the other."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.client = QMPClient('qemu-quorum')
        self.client.negotiate = False       # that is left to _negotiate()
        self.connected = False
        self.oob = False                    # it has commands "out of band"
        self.loss: Optional[Failure] = None     # of the connection
        self.patience = ANSWER_SECONDS

    def _run(self, what: Awaitable[T], seconds: Optional[float]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(what, seconds))

    def connect(self) -> None:
        where: Union[str, Tuple[str, int]] = self.address
        host, colon, port = self.address.rpartition(':')
        if colon and re.fullmatch('[0-9]+', port) and '/' not in self.address:
            if len(port) > 5 or not 0 < int(port) < 1 << 16:
                raise Failure(f"--socket '{self.address}': '{port}' is not a "
                              'port: it must be 1 to 65535')
            where = (re.sub(r'^\[(.*)\]$', r'\1', host), int(port))
        try:
            self._run(self.client.connect(where), GREETING_SECONDS)
        except asyncio.TimeoutError:
            raise Failure(
                f"'{self.address}' does not greet: a QMP socket serves one "
                'client at a time, is there another one (perhaps a '
                'qemu-quorum that waits)?') from None
        except ConnectError as error:
            cause = error.exc
            if isinstance(cause, FileNotFoundError):
                text = 'no such socket; does QEMU run, and was it started ' \
                       f'with -qmp unix:{self.address},server=on,wait=off?'
            elif isinstance(cause, ConnectionRefusedError):
                text = 'nobody listens there; has QEMU ended?'
            elif isinstance(cause, OSError):
                text = cause.strerror or str(cause)
            else:
                text = 'what is there does not speak QMP'
            raise Failure(f"cannot connect to '{self.address}': "
                          f'{text}') from None
        self.connected = True
        self._negotiate()

    def _negotiate(self) -> None:
        """
        This, too, is done out of band if QEMU can (10.1 can): then it works
        while QEMU is stuck in a command of somebody else.
        """
        greeting = self.client.greeting
        self.oob = greeting is not None and \
            'oob' in greeting.QMP.capabilities
        enable = {'enable': ['oob'] if self.oob else []}
        if self.oob:
            try:
                self.ask_at_once('qmp_capabilities', enable)
                return
            except ExecuteError:
                pass
        self.execute('qmp_capabilities', enable, GREETING_SECONDS)

    def close(self) -> None:
        try:
            if self.connected:
                self._run(self.client.disconnect(), GREETING_SECONDS)
        except (asyncio.TimeoutError, QMPError, EOFError, OSError,
                ValueError):
            pass        # it has been lost already

    def execute(self, command: str, arguments: Optional[Dictionary] = None,
                seconds: Optional[float] = None, oob: bool = False) -> Any:
        """Raises ExecuteError if QEMU refuses."""
        try:
            return self._run(self.client.execute(command, arguments, oob),
                             seconds)
        except ExecuteError:
            raise
        except asyncio.TimeoutError:
            raise Stuck(f'QEMU has not answered {command} in {seconds:.0f} '
                        'seconds; is its storage stuck? See "A server hangs" '
                        'in the manual') from None
        except (QMPError, EOFError, OSError):
            raise self._lost() from None

    def _lost(self) -> Failure:
        """Why there is no connection any more"""
        if not self.loss:
            self.connected = False
            cause: Optional[BaseException] = None
            try:
                self._run(self.client.disconnect(), GREETING_SECONDS)
            except (asyncio.TimeoutError, QMPError, EOFError, OSError,
                    ValueError) as error:
                cause = error
            if isinstance(cause, (EOFError, ConnectionError)):
                self.loss = Gone('the connection is lost: QEMU at '
                                 f"'{self.address}' has ended")
            else:
                why = str(cause or '') or 'nobody says why'
                self.loss = Failure(f"the connection to '{self.address}' is "
                                    'lost, and not because QEMU has ended: '
                                    f'{why}', NOT_WELL)
        return self.loss

    def ask(self, command: str, **arguments: object) -> Any:
        return self.execute(command, {key.replace('_', '-'): value for
                                      key, value in arguments.items()},
                            self.patience)

    def ask_at_once(self, command: str,
                    arguments: Optional[Dictionary] = None) -> Any:
        """Out of band if QEMU can: then it answers although it is stuck."""
        return self.execute(command, arguments, GREETING_SECONDS, self.oob)

    def change(self, command: str, arguments: Dictionary,
               seconds: Optional[float] = None) -> None:
        """Do what may take its time; a refusal is a Failure."""
        try:
            self.execute(command, arguments, seconds)
        except ExecuteError as error:
            raise Failure(str(error), NOT_WELL) from None

    def sleep(self, seconds: float) -> None:
        """Let events come."""
        self._run(asyncio.sleep(seconds), None)

    def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Let events come, until this one is set, or so long."""
        try:
            self._run(event.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    def events(self) -> List[Dictionary]:
        return [dict(event) for event in self.client.events.clear()]
