"""People of the desk: who they are, the tokens that let them in, their sessions. Of tokens only hashes are kept."""

import hashlib
import secrets
from typing import Literal, NamedTuple, get_args

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from clew.feedback import events
from clew.feedback.schema import people, sessions
from clew.feedback.store import Store

Role = Literal["annotator", "operator", "owner", "judge"]
State = Literal["active", "paused", "excluded"]


class Person(NamedTuple):
    """Example: `Person("9f2c…", "p-7", "Anna", "annotator", "south", "active", 1700000000000)`"""

    id: str
    pseudonym: str
    """What everybody but operators sees."""
    name: str
    role: Role
    group: str
    """Declared group of raters; empty when none was declared."""
    state: State
    created: int


class People:
    """Example: `person, token = People(store).add("annotator", name="Anna", actor="owner", now=now)`"""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, role: Role, *, name: str = "", group: str = "", actor: str, now: int) -> tuple[Person, str]:
        """The person and their token, which is not kept and cannot be shown again."""
        if role not in get_args(Role):
            raise ValueError(f"a person's role is one of {', '.join(get_args(Role))}; got {role!r}")
        token = secrets.token_urlsafe(32)
        with self._store.write() as connection:
            key = secrets.token_hex(10)
            body = {"person": key, "role": role, "group": group}
            events.append(connection, "person.added", body, actor=actor, now=now)  # from here on we are alone
            number = connection.execute(sa.select(sa.func.count()).select_from(people)).scalar_one() + 1
            connection.execute(
                people.insert().values(
                    id=key,
                    pseudonym=f"p-{number}",
                    name=name,
                    role=role,
                    rater_group=group,
                    token_sha256=hashed(token),
                    state="active",
                    created=now,
                )
            )
        return Person(key, f"p-{number}", name, role, group, "active", now), token

    def all(self) -> list[Person]:
        with self._store.read() as connection:
            return [_person(row) for row in connection.execute(sa.select(people).order_by(people.c.created))]

    def find(self, person: str) -> Person | None:
        return self._one(people.c.id == person)

    def by_token(self, token: str) -> Person | None:
        return self._one(people.c.token_sha256 == hashed(token))

    def renew(self, person: str, *, actor: str, now: int) -> str:
        """A new token beside the sessions that are open. Raises KeyError for an unknown person."""
        token = secrets.token_urlsafe(32)
        with self._store.write() as connection:
            _change(connection, person, token_sha256=hashed(token))
            events.append(connection, "person.renewed", {"person": person}, actor=actor, now=now)
        return token

    def rotate(self, person: str, *, actor: str, now: int) -> str:
        """A new token; the old one and all sessions end. Raises KeyError for an unknown person."""
        token = secrets.token_urlsafe(32)
        with self._store.write() as connection:
            _change(connection, person, token_sha256=hashed(token))
            connection.execute(sessions.delete().where(sessions.c.person == person))
            events.append(connection, "person.rotated", {"person": person}, actor=actor, now=now)
        return token

    def set_state(self, person: str, state: State, *, reason: str = "", actor: str, now: int) -> None:
        """Paused people get no tasks; excluded ones are left out of what is read and exported, too, until active again.

        Nothing of theirs is deleted. Raises KeyError for an unknown person.
        """
        if state not in get_args(State):
            raise ValueError(f"a person's state is one of {', '.join(get_args(State))}; got {state!r}")
        with self._store.write() as connection:
            put_state(connection, person, state, reason=reason, actor=actor, now=now)

    def erase(self, person: str, *, actor: str, now: int) -> None:
        """Forget name and token: the pseudonym and the answers stay. Raises KeyError for an unknown person."""
        with self._store.write() as connection:
            _change(connection, person, name="", token_sha256=None, state="paused")
            connection.execute(sessions.delete().where(sessions.c.person == person))
            events.append(connection, "person.erased", {"person": person}, actor=actor, now=now)

    def redeem(self, token: str, *, now: int, expires: int) -> tuple[Person, str] | None:
        """Whose token it is, and the secret of a new session; the token is spent. None for one that nobody has."""
        secret = secrets.token_urlsafe(32)
        with self._store.write() as connection:
            row = connection.execute(sa.select(people).where(people.c.token_sha256 == hashed(token))).first()
            if row is None:
                return None
            spent = people.update().where(people.c.id == row.id, people.c.token_sha256 == hashed(token))
            if connection.execute(spent.values(token_sha256=None)).rowcount == 0:
                return None
            connection.execute(sessions.insert().values(id_sha256=hashed(secret), person=row.id, expires=expires))
            events.append(connection, "person.in", {"person": row.id}, actor=row.id, now=now)
        return _person(row), secret

    def open_session(self, person: str, *, expires: int) -> str:
        """A new session's secret, for the cookie."""
        secret = secrets.token_urlsafe(32)
        with self._store.write() as connection:
            connection.execute(sessions.insert().values(id_sha256=hashed(secret), person=person, expires=expires))
        return secret

    def in_session(self, secret: str, *, now: int) -> Person | None:
        query = (
            sa.select(people)
            .join(sessions, sessions.c.person == people.c.id)
            .where(sessions.c.id_sha256 == hashed(secret), sessions.c.expires > now)
        )
        with self._store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _person(row)

    def close_session(self, secret: str) -> None:
        with self._store.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.id_sha256 == hashed(secret)))

    def _one(self, condition: sa.ColumnElement[bool]) -> Person | None:
        with self._store.read() as connection:
            row = connection.execute(sa.select(people).where(condition)).first()
        return None if row is None else _person(row)


def put_state(connection: Connection, person: str, state: State, *, reason: str, actor: str, now: int) -> None:
    _change(connection, person, state=state)
    body = {"person": person, "state": state, "reason": reason}
    events.append(connection, "person.state", body, actor=actor, now=now)


def held(connection: Connection, person: str) -> Person:
    """The person, whom nobody else gives or takes tasks until the transaction ends. Raises KeyError for an unknown."""
    row = connection.execute(sa.select(people).where(people.c.id == person).with_for_update()).first()
    if row is None:
        raise KeyError(f"nobody has the id {person!r}")
    return _person(row)


def hashed(secret: str) -> str:
    """Of 256 random bits a plain sha256 is enough: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _change(connection: Connection, person: str, **values: str | None) -> None:
    if connection.execute(people.update().where(people.c.id == person).values(**values)).rowcount == 0:
        raise KeyError(f"nobody has the id {person!r}")


def _person(row: Row[tuple[object, ...]]) -> Person:
    return Person(row.id, row.pseudonym, row.name, row.role, row.rater_group, row.state, row.created)
