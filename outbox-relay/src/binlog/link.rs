//! A connection for statements, which is given up when its server has fallen silent: a client that waits for an answer
//! is never told that the server has lost its power, or that a firewall has forgotten the connection.
//!
//! A statement may take long. So one that does is asked after, over a connection of its own.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use mysql_async::prelude::{AsQuery, FromRow, Queryable, StatementLike};
use mysql_async::{
    BinaryProtocol, Conn, InfileData, Opts, OptsBuilder, Params, QueryResult, Row, Statement, TextProtocol,
};
use outbox_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::failure;
use crate::config::Secret;
#[cfg(feature = "tls")]
use crate::outbox::store::tls;

/// How long connecting and logging in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without an answer the server is asked what it does, and again each time.
const SILENCE: Duration = Duration::from_secs(20);
/// How long an answer may be under way that the server has given.
const GRACE: Duration = Duration::from_secs(5);
/// For connections that nobody waits for.
const KEEPALIVE_MS: u32 = 30_000;
/// The largest row that a server can store or send: it may be larger than the packets that the server takes.
const ROW_BYTES_MAX: usize = 1 << 30;

type Answer<'a, T> = Pin<Box<dyn Future<Output = mysql_async::Result<T>> + Send + 'a>>;

/// A connection that does not wait for ever.
pub struct Link {
    connection: Conn,
    line: Line,
}

/// What it takes to ask after a connection.
struct Line {
    opts: Opts,
    #[cfg(feature = "tls")]
    tls: Option<outbox_core::tls::Tls>,
    /// The server's number for the connection.
    id: u32,
    is_lost: bool,
}

/// The rows of an answer, one by one.
pub(crate) struct Rows<'l> {
    answer: QueryResult<'l, 'static, BinaryProtocol>,
    line: &'l mut Line,
}

impl Link {
    /// Connects to a server; the URL is for errors.
    ///
    /// # Errors
    /// `Outage` when it cannot be reached, `Database` when it refuses.
    pub(crate) async fn open(
        url: &Secret,
        opts: OptsBuilder,
        #[cfg(feature = "tls")] tls: Option<outbox_core::tls::Tls>,
    ) -> Result<Self> {
        let opts = Opts::from(opts.max_allowed_packet(Some(ROW_BYTES_MAX)));
        let keepalive = opts.tcp_keepalive().unwrap_or(KEEPALIVE_MS);
        let opts = OptsBuilder::from_opts(opts).tcp_keepalive(Some(keepalive)).into();
        let mut line = Line {
            opts,
            #[cfg(feature = "tls")]
            tls,
            id: 0,
            is_lost: false,
        };
        let connection = line.connect().await.map_err(|(_, error)| {
            let text = url.scrub(&error.to_string());
            Error::new(error.kind(), format!("{url}: connecting: {text}"))
        })?;
        line.id = connection.id();
        Ok(Self { connection, line })
    }

    /// The rows of a query, taken one by one.
    pub(crate) async fn rows(&mut self, sql: String, params: Params) -> mysql_async::Result<Rows<'_>> {
        let answer = self.line.bounded(self.connection.exec_iter(sql, params)).await?;
        Ok(Rows { answer, line: &mut self.line })
    }

    /// What the next LOAD DATA LOCAL sends.
    pub(crate) fn set_infile_handler<F>(&mut self, handler: F)
    where
        F: Future<Output = mysql_async::Result<InfileData>> + Send + Sync + 'static,
    {
        self.connection.set_infile_handler(handler);
    }
}

impl Rows<'_> {
    /// The next row; `None` after the last.
    pub(crate) async fn next(&mut self) -> mysql_async::Result<Option<Row>> {
        self.line.bounded(self.answer.next()).await
    }
}

impl Line {
    /// A connection, or whether the server has answered, and why there is none.
    async fn connect(&self) -> std::result::Result<Conn, (bool, Error)> {
        let opening = async {
            #[cfg(feature = "tls")]
            if let Some(tls) = &self.tls {
                let opts = tls::mysql_opts(OptsBuilder::from_opts(self.opts.clone()), tls).await;
                let opts = opts.map_err(|error| (!error.is_outage(), error))?;
                let opened = Conn::new(opts.clone()).await;
                return opened.map_err(|error| {
                    let is_answer = is_answer(&error);
                    let error = tls::mysql_refusal(error, tls, &opts);
                    (is_answer || !error.is_outage(), error)
                });
            }
            let opened = Conn::new(self.opts.clone()).await;
            opened.map_err(|error| (is_answer(&error), Error::new(failure::kind(&error), error.to_string())))
        };
        let silent =
            |_| (false, Error::new(ErrorKind::Outage, format!("no connection within {CONNECT_TIMEOUT:?}")));
        timeout(CONNECT_TIMEOUT, opening).await.map_err(silent)?
    }

    /// What comes of a statement, unless the server is not at work on it any more and yet does not answer.
    async fn bounded<T>(
        &mut self,
        answer: impl Future<Output = mysql_async::Result<T>>,
    ) -> mysql_async::Result<T> {
        if self.is_lost {
            return Err(silent());
        }
        let mut answer = std::pin::pin!(answer);
        loop {
            if let Ok(answer) = timeout(SILENCE, answer.as_mut()).await {
                return answer;
            }
            let is_at_work = tokio::select! {
                biased;
                answer = answer.as_mut() => return answer,
                is_at_work = self.is_at_work() => is_at_work,
            };
            if !is_at_work {
                let last = timeout(GRACE, answer.as_mut()).await;
                self.is_lost = last.is_err();
                return last.unwrap_or_else(|_| Err(silent()));
            }
        }
    }

    /// Whether the server is at work for the connection. Where it has it and waits for us, its transaction and locks
    /// end here: nobody will.
    async fn is_at_work(&self) -> bool {
        let asking = async {
            let mut other = self.connect().await.map_err(|(has_answered, _)| has_answered)?;
            // It is there, though it does not say: too many connections, say.
            let rows: Vec<Row> = other.query("SHOW PROCESSLIST").await.map_err(|error| is_answer(&error))?;
            // Id, user, host, database, command, seconds of it.
            let ours = rows.iter().find(|row| row.get(0).is_some_and(|id: u64| id as u32 == self.id));
            let Some(row) = ours else { return Ok(false) };
            let is_idle = row.get(4).is_some_and(|command: String| command == "Sleep");
            let seconds: u64 = row.get(5).unwrap_or_default();
            if is_idle && seconds >= SILENCE.as_secs() / 2 {
                other.query_drop(format!("KILL {}", self.id)).await.map_err(|error| is_answer(&error))?;
            }
            Ok(!is_idle)
        };
        match timeout(CONNECT_TIMEOUT, asking).await {
            Ok(Ok(is_at_work) | Err(is_at_work)) => is_at_work,
            Err(_) => false,
        }
    }
}

/// Whether the server is there, whatever it says.
fn is_answer(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(_))
}

fn silent() -> mysql_async::Error {
    let text = "the server is silent: it is gone, or a network in between has lost the connection";
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

impl Deref for Link {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.connection
    }
}

/// As the driver's connection has it, each answer awaited in this way; of what is read row by row only the beginning.
impl Queryable for Link {
    fn ping(&mut self) -> Answer<'_, ()> {
        Box::pin(self.line.bounded(self.connection.ping()))
    }

    fn query_iter<'a, Q>(&'a mut self, query: Q) -> Answer<'a, QueryResult<'a, 'static, TextProtocol>>
    where
        Q: AsQuery + 'a,
    {
        Box::pin(self.line.bounded(self.connection.query_iter(query)))
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> Answer<'a, Statement>
    where
        Q: AsQuery + 'a,
    {
        Box::pin(self.line.bounded(self.connection.prep(query)))
    }

    fn close(&mut self, statement: Statement) -> Answer<'_, ()> {
        Box::pin(self.line.bounded(self.connection.close(statement)))
    }

    fn exec_iter<'a: 's, 's, Q, P>(
        &'a mut self,
        statement: Q,
        params: P,
    ) -> Answer<'s, QueryResult<'a, 'static, BinaryProtocol>>
    where
        Q: StatementLike + 'a,
        P: Into<Params>,
    {
        Box::pin(self.line.bounded(self.connection.exec_iter(statement, params.into())))
    }

    fn query<'a, T, Q>(&'a mut self, query: Q) -> Answer<'a, Vec<T>>
    where
        Q: AsQuery + 'a,
        T: FromRow + Send + 'static,
    {
        Box::pin(self.line.bounded(self.connection.query(query)))
    }

    fn query_first<'a, T, Q>(&'a mut self, query: Q) -> Answer<'a, Option<T>>
    where
        Q: AsQuery + 'a,
        T: FromRow + Send + 'static,
    {
        Box::pin(self.line.bounded(self.connection.query_first(query)))
    }

    fn query_drop<'a, Q>(&'a mut self, query: Q) -> Answer<'a, ()>
    where
        Q: AsQuery + 'a,
    {
        Box::pin(self.line.bounded(self.connection.query_drop(query)))
    }

    fn exec_batch<'a: 'b, 'b, S, P, I>(&'a mut self, statement: S, params: I) -> Answer<'b, ()>
    where
        S: StatementLike + 'b,
        I: IntoIterator<Item = P> + Send + 'b,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        Box::pin(self.line.bounded(self.connection.exec_batch(statement, params)))
    }

    fn exec<'a: 'b, 'b, T, S, P>(&'a mut self, statement: S, params: P) -> Answer<'b, Vec<T>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
    {
        Box::pin(self.line.bounded(self.connection.exec(statement, params)))
    }

    fn exec_first<'a: 'b, 'b, T, S, P>(&'a mut self, statement: S, params: P) -> Answer<'b, Option<T>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
    {
        Box::pin(self.line.bounded(self.connection.exec_first(statement, params)))
    }

    fn exec_fold<'a: 'b, 'b, T, S, P, U, F>(
        &'a mut self,
        statement: S,
        params: P,
        init: U,
        fold: F,
    ) -> Answer<'b, U>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
        F: FnMut(U, T) -> U + Send + 'a,
        U: Send + 'a,
    {
        Box::pin(self.line.bounded(self.connection.exec_fold(statement, params, init, fold)))
    }

    fn exec_drop<'a: 'b, 'b, S, P>(&'a mut self, statement: S, params: P) -> Answer<'b, ()>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
    {
        Box::pin(self.line.bounded(self.connection.exec_drop(statement, params)))
    }
}
