//! The backend: how statements go to the server, and what they do there.

use std::{future::poll_fn, sync::Arc, task::Poll};

use ringpact::{
    BranchId, Epoch, Name, TxnOrdinal,
    participant::{
        Decision, Life,
        xa::{Prepared, XaBackend, XaError, XaErrorKind, XaOutcome, XaPromise, XaVote},
    },
};

use super::{
    Connection, Database, Defect, Fate, Late, Row, Server, Session, Statement, Tables, lost, not_there, unavailable,
};

impl<W: Row> Database<W> {
    /// A statement is on its way for some time.
    pub(super) async fn step(&self, statement: Statement) -> Fate {
        let fate = match &self.way {
            Some(way) => way.go(statement).await,
            None => self.step_by_chance(statement).await,
        };
        let mut tables = self.tables.lock();
        tables.carried_out.push(statement);
        // What a server that is down is told, it never hears.
        if tables.server == Server::Down { Fate::LostBefore } else { fate }
    }

    async fn step_by_chance(&self, statement: Statement) -> Fate {
        let (pauses, fate) = {
            let mut tables = self.tables.lock();
            let scripted = tables.script.iter().position(|(next, _)| *next == statement);
            let scripted = scripted.and_then(|at| tables.script.remove(at)).map(|(_, fate)| fate);
            let drawn = tables.chance.as_mut().map(|chance| {
                let fate = match chance.u32(..40) {
                    0 => Fate::LostBefore,
                    1 | 2 => Fate::LostAfter,
                    3 | 4 => Fate::Late,
                    5 => Fate::Refused,
                    _ => Fate::Answered,
                };
                (chance.u32(..4), fate)
            });
            let (pauses, fate) = drawn.unwrap_or((0, Fate::Answered));
            (pauses, scripted.unwrap_or(fate))
        };
        for _ in 0..pauses {
            pause().await;
        }
        if fate == Fate::Unanswered {
            std::future::pending::<()>().await;
        }
        let mut tables = self.tables.lock();
        if tables.chance.as_mut().is_some_and(|chance| chance.u32(..8) == 0) {
            let late = tables.sessions.iter().find(|(_, session)| session.late.is_some()).map(|(number, _)| *number);
            if let Some(number) = late {
                tables.finish(number);
            }
            if let Some(note) = tables.late_notes.pop() {
                tables.note(note);
            }
        }
        fate
    }

    /// Whether the answer to the statement arrives.
    pub(super) async fn is_answered(&self, statement: Statement) -> bool {
        match &self.way {
            Some(way) => way.come_back(statement).await,
            None => true,
        }
    }

    /// Has the server do this some time later, unless it is stopped before.
    fn later(&self, does: impl FnOnce(&mut Tables<W>) + Send + 'static) {
        let Some(way) = &self.way else { return };
        let (tables, starts) = (Arc::clone(&self.tables), self.tables.lock().starts);
        way.later(Box::new(move || {
            let mut tables = tables.lock();
            if tables.starts == starts && tables.server != Server::Down {
                does(&mut tables);
            }
        }));
    }

    /// Carries out a statement that has no session to lose.
    async fn plain<T: Send>(
        &self,
        statement: Statement,
        does: impl FnOnce(&mut Tables<W>) -> Result<T, XaError> + Send + 'static,
    ) -> Result<T, XaError> {
        let done = match self.step(statement).await {
            Fate::Answered => does(&mut self.tables.lock()),
            // No connection is left that a session could begin on.
            Fate::Late if self.way.is_some() && statement != Statement::Begin => {
                self.later(|tables| _ = does(tables));
                Err(unavailable())
            }
            Fate::LostAfter | Fate::Late => {
                // What it returns locks the tables when it is dropped.
                let unheard = does(&mut self.tables.lock());
                drop(unheard);
                Err(XaError::new(XaErrorKind::Unavailable, "the answer is lost"))
            }
            Fate::Denied => Err(not_there()),
            Fate::LostBefore | Fate::Refused | Fate::Unanswered => Err(unavailable()),
        };
        if self.is_answered(statement).await { done } else { Err(unavailable()) }
    }

    fn lost(&self) -> XaError {
        match self.tables.lock().defect {
            Some(Defect::TakesLostForRefused) => XaError::new(XaErrorKind::Refused, "the connection is gone"),
            _ => lost(),
        }
    }

    /// Carries out a statement of a session, which may be lost with it.
    async fn of_session(
        &self,
        statement: Statement,
        session: &mut Option<Connection<W>>,
        late: Late,
    ) -> Result<XaVote, XaError> {
        let refused = |why: &'static str| XaError::new(XaErrorKind::Refused, why);
        let Some(connection) = session.take() else { return Err(refused("no session")) };
        let number = connection.number;
        let answer = match self.step(statement).await {
            Fate::Refused => {
                *session = Some(connection);
                Err(refused("a constraint is violated"))
            }
            Fate::LostBefore | Fate::Unanswered | Fate::Denied => Err(self.lost()),
            fate => {
                let vote = {
                    let mut tables = self.tables.lock();
                    let Some(session) = tables.sessions.get_mut(&number) else {
                        return Err(refused("the session was ended"));
                    };
                    session.late = Some(late);
                    let branch = session.branch.clone();
                    let vote = if fate == Fate::Late { None } else { tables.finish(number) };
                    // The server sees later that the connection is gone, and lists the promise then.
                    if fate == Fate::LostAfter && self.way.is_some() && tables.promises.contains_key(&branch) {
                        tables.unlisted.insert(branch.clone());
                        drop(tables);
                        self.later(move |tables| _ = tables.unlisted.remove(&branch));
                    }
                    vote
                };
                if fate == Fate::Late {
                    self.later(move |tables| _ = tables.finish(number));
                }
                if let (Fate::Answered, Some(vote)) = (fate, vote) { Ok(vote) } else { Err(self.lost()) }
            }
        };
        if self.is_answered(statement).await { answer } else { Err(self.lost()) }
    }
}

/// Lets others run.
async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

impl<W: Row> XaBackend for Database<W> {
    type Session = Connection<W>;
    type Interrupt = ();

    async fn begin(&self, branch: &BranchId) -> Result<Connection<W>, XaError> {
        let (database, branch) = (self.clone(), branch.clone());
        self.plain(Statement::Begin, move |tables| {
            tables.next_session += 1;
            let number = tables.next_session;
            tables.sessions.insert(number, Session { branch, changes: Vec::new(), late: None, is_idle: false });
            Ok(Connection { number, database })
        })
        .await
    }

    fn interrupter(&self, _: &Connection<W>) {}

    async fn interrupt(&self, (): ()) {}

    async fn prepare(&self, promise: &XaPromise, session: &mut Option<Connection<W>>) -> Result<XaVote, XaError> {
        self.of_session(Statement::Prepare, session, Late::Prepare(promise.clone())).await
    }

    async fn commit_one_phase(&self, _: &BranchId, session: &mut Option<Connection<W>>) -> Result<(), XaError> {
        self.of_session(Statement::CommitOnePhase, session, Late::Commit).await.map(drop)
    }

    async fn rollback(&self, _: &BranchId, session: Connection<W>) {
        if self.step(Statement::Rollback).await == Fate::Answered {
            self.tables.lock().sessions.remove(&session.number);
        }
    }

    async fn commit_prepared(&self, promise: &XaPromise, _: &mut Option<Connection<W>>) -> Result<(), XaError> {
        let promise = promise.clone();
        let committed = self.plain(Statement::CommitPrepared, move |tables| {
            let (_, changes) = tables.take(&promise)?;
            tables.apply(promise.branch, changes);
            Ok(())
        });
        match committed.await {
            Err(error) if error.kind() == XaErrorKind::NotThere && self.has(Defect::BelievesWhatIsNotThere) => Ok(()),
            committed => committed,
        }
    }

    async fn rollback_prepared(&self, promise: &XaPromise, _: &mut Option<Connection<W>>) -> Result<(), XaError> {
        let promise = promise.clone();
        self.plain(Statement::RollbackPrepared, move |tables| tables.take(&promise).map(drop)).await
    }

    async fn fence(&self, branch: &BranchId) -> Result<(), XaError> {
        let (branch, way) = (branch.clone(), self.way.clone());
        self.plain(Statement::Fence, move |tables| {
            if tables.defect != Some(Defect::FencesNothing) {
                tables.end_sessions(way.as_deref(), |other| *other == branch);
            }
            Ok(())
        })
        .await
    }

    async fn fence_earlier(&self, coordinator: &Name, before: Epoch) -> Result<(), XaError> {
        let (coordinator, way) = (coordinator.clone(), self.way.clone());
        self.plain(Statement::Fence, move |tables| {
            if tables.defect != Some(Defect::LetsEarlierLivesGoOn) {
                let is_earlier =
                    |other: &BranchId| *other.txn().coordinator() == coordinator && other.txn().epoch() < before;
                tables.end_sessions(way.as_deref(), is_earlier);
            }
            Ok(())
        })
        .await
    }

    async fn outcome(&self, branch: &BranchId) -> Result<XaOutcome, XaError> {
        let branch = branch.clone();
        self.plain(Statement::Ask, move |tables| {
            let is_unlisted = tables.unlisted.contains(&branch);
            if is_unlisted && tables.is_recovering() {
                return Err(unavailable());
            }
            Ok(match tables.promises.get(&branch) {
                Some((promise, _)) if !is_unlisted => XaOutcome::Promised(promise.clone()),
                _ if tables.markers.contains(&branch) => XaOutcome::Committed,
                _ => XaOutcome::Unknown,
            })
        })
        .await
    }

    async fn promises(&self, coordinator: &Name) -> Result<Vec<XaPromise>, XaError> {
        let coordinator = coordinator.clone();
        self.plain(Statement::Ask, move |tables| {
            let all = tables.listed()?.map(|(promise, _)| promise.clone());
            Ok(all.filter(|promise| *promise.branch.txn().coordinator() == coordinator).collect())
        })
        .await
    }

    async fn prepared(&self) -> Result<Vec<Prepared>, XaError> {
        self.plain(Statement::Ask, |tables| {
            let as_listed = |promise: &XaPromise| {
                let mut prepared = Prepared::new(promise.branch.to_string());
                (prepared.branch, prepared.is_own) = (Some(promise.branch.clone()), true);
                prepared
            };
            Ok(tables.listed()?.map(|(promise, _)| as_listed(promise)).collect())
        })
        .await
    }

    async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        let id = id.to_owned();
        self.plain(Statement::CommitPrepared, move |tables| {
            let branch: BranchId = id.parse().map_err(|_| not_there())?;
            let (_, changes) = tables.promises.remove(&branch).ok_or_else(not_there)?;
            if decision == Decision::Commit {
                tables.apply(branch, changes);
            }
            Ok(())
        })
        .await
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        self.plain(Statement::Ask, |tables| Ok(tables.lives.clone().into_iter().collect())).await
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        let note = (coordinator.clone(), *life, before.copied());
        let noted = match self.step(Statement::NoteLife).await {
            Fate::LostBefore | Fate::Refused => Err(unavailable()),
            Fate::Late => {
                if self.way.is_some() {
                    self.later(move |tables| _ = tables.note(note));
                } else {
                    self.tables.lock().late_notes.push(note);
                }
                Err(unavailable())
            }
            fate => {
                let is_noted = self.tables.lock().note(note);
                if fate == Fate::Answered { Ok(is_noted) } else { Err(unavailable()) }
            }
        };
        if self.is_answered(Statement::NoteLife).await { noted } else { Err(unavailable()) }
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let coordinator = coordinator.clone();
        self.plain(Statement::Forget, move |tables| {
            tables
                .markers
                .retain(|branch| *branch.txn().coordinator() != coordinator || branch.txn().ordinal() >= below);
            Ok(())
        })
        .await
    }
}

impl<W: Row> Tables<W> {
    fn is_recovering(&self) -> bool {
        self.server == Server::Recovering && self.defect != Some(Defect::BelievesLateLists)
    }

    /// The promises that the server lists, once it lists all of them.
    fn listed(&self) -> Result<impl Iterator<Item = &(XaPromise, Vec<W>)>, XaError> {
        if self.is_recovering() {
            return Err(unavailable());
        }
        let listed = self.promises.iter().filter(|(branch, _)| !self.unlisted.contains(*branch));
        Ok(listed.map(|(_, promise)| promise))
    }
}
