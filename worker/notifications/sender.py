"""Who sends what waits: a thread of whichever worker or trainer has the right; no loop and no training waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from loguru import logger

from trading_system.ml_refinement.storage import FeatureDatabase, StoreError
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.notifications.table import Notification
from trading_system.ml_refinement.storage.times import Clock, utc_now, utc_text
from worker.errors import RefineryError
from worker.installation import open_store
from worker.notifications.delivery import Answer, post
from worker.notifications.message import body, headers
from worker.notifications.right import right_to_send
from worker.settings.schema import Settings

#: Dead letters of so long are counted for a burst, of so many newest at most, and so often one is told of.
BURST_WITHIN = timedelta(minutes=10)
_BURST_AMONG = 1_000
BURST_TOLD_EVERY = timedelta(hours=1)
_LOOK_EVERY_S = 2.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 3_600.0


class Notifier:
    """Sends what is due, in order, one at a time.

    What a receiver has taken is not sent again, unless this process is killed before it could note that: then the
    same message goes once more, with the same id.

    Args:
        settings: of this process.
        clock: for ages and pauses.
    """

    def __init__(self, settings: Settings, *, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._right = right_to_send(settings)
        self._opened: FeatureDatabase | None = None
        #: Taken by the receiver, and not noted in the store so far.
        self._taken: set[int] = set()
        #: At the last look for a burst: where none came since, there is none.
        self._newest_letter = 0

    def look(self, stop: threading.Event) -> int:
        """Send what is due; how many were taken. Nothing is done where another process is the sender.

        Raises:
            StoreError: the store cannot be read or written now; what was taken is remembered.
            RefineryError: the store is being restored.
            OSError: the lock cannot be made.
        """
        if not self._settings.store_is_there or not self._right.had(self._store):
            return 0
        store, now = self._store(), self._clock()
        for number in sorted(self._taken):
            store.notifications.sent(number, at=utc_text(now))
            self._taken.discard(number)
        self._settle(store, now)
        sent = 0
        for notification in store.notifications.due(utc_text(now)) if self._settings.notify.url else ():
            if stop.is_set() or not self._right.sure(self._store) or not self._sent(store, notification):
                break
            sent += 1
        return sent

    def close(self) -> None:
        """Let go of store and right."""
        self._right.give_back(self._opened)
        self.let_go_of_store()

    def let_go_of_store(self) -> None:
        """Close it, to open at the next look what is there then."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _store(self) -> FeatureDatabase:
        if self._opened is None:
            self._opened = open_store(self._settings)
        return self._opened

    def _settle(self, store: FeatureDatabase, now: datetime) -> None:
        """What is not wanted, what has waited too long, and whether there is a burst to tell of."""
        told, notify = store.notifications, self._settings.notify
        if notify.url is not None:
            self._tell_burst(store, now)
        if not told.waiting().number:
            return
        at = utc_text(now)
        told.refuse([] if notify.url is None else notify.kinds, at=at)
        if given_up := told.give_up(utc_text(now - timedelta(hours=notify.give_up_hours)), at=at):
            logger.error("notifications given up after {} hours: {}", notify.give_up_hours, given_up)

    def _tell_burst(self, store: FeatureDatabase, now: datetime) -> None:
        least, kind = self._settings.notify.dead_letter_burst, Occasion.DEAD_LETTER_BURST
        if not least or kind not in self._settings.notify.kinds:
            return
        newest = store.dead_letters.newest_id()
        if newest == self._newest_letter or store.notifications.told_since(kind, utc_text(now - BURST_TOLD_EVERY)):
            return
        self._newest_letter = newest
        reasons = store.dead_letters.newest_by_reason(utc_text(now - BURST_WITHIN), among=_BURST_AMONG)
        if sum(reasons.values()) < least:
            return
        minutes = int(BURST_WITHIN.total_seconds() // 60)
        details = {"letters": sum(reasons.values()), "minutes": minutes, "reasons": reasons}
        store.notifications.add(kind, details, at=utc_text(now))

    def _sent(self, store: FeatureDatabase, notification: Notification) -> bool:
        """Whether the one after it may be tried."""
        answer = send(self._settings, notification, installation=store.installation_id(), now=self._clock())
        if answer.taken:
            self._taken.add(notification.id)
            store.notifications.sent(notification.id, at=utc_text(self._clock()))
            self._taken.discard(notification.id)
            logger.info("told {} of {}", self._settings.notify.masked_url, notification.kind)
            return True
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(notification.attempts, 20))
        next_try = utc_text(self._clock() + timedelta(seconds=pause_s))
        store.notifications.failed(notification.id, answer.says, next_try=next_try, hold_all=not answer.of_the_message)
        logger.warning(
            "the notification {} was not taken by {}, trying again in {:.0f} s: {}",
            notification.message_id,
            self._settings.notify.masked_url,
            pause_s,
            answer.says,
        )
        return answer.of_the_message


def send(settings: Settings, notification: Notification, *, installation: str, now: datetime) -> Answer:
    """Post one notification to the webhook, once. There must be one."""
    notify = settings.notify
    url = notify.url.get_secret_value() if notify.url is not None else ""
    content = body(notification, notify, installation=installation)
    named = headers(notification.message_id, content, notify, now_s=int(now.timestamp()))
    return post(url, content, named, timeout_s=notify.timeout_s)


@contextmanager
def sending(settings: Settings) -> Iterator[None]:
    """Notifications are sent while the block runs, by this process if no other does."""
    stop = threading.Event()
    thread = threading.Thread(target=_send_until, args=(settings, stop), name="notifications", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)  # one that waits for a receiver ends with the process, and its message is sent again


def _send_until(settings: Settings, stop: threading.Event) -> None:
    sender = Notifier(settings)
    said = ""
    while not stop.wait(_LOOK_EVERY_S):
        try:
            sender.look(stop)
            said = ""
        except (StoreError, RefineryError, OSError) as error:
            if str(error) != said:
                logger.warning("notifications wait: {}", error)
            said = str(error)
            sender.let_go_of_store()
        except Exception:  # noqa: BLE001 - who is to be told of faults must outlive them
            logger.exception("notifications wait")
            sender.let_go_of_store()
            stop.wait(60.0)
    sender.close()
