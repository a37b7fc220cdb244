//! Relay and subscribers as processes: this program again, with a hidden `--role`. Killed, they get SIGKILL.

use std::process::{ExitCode, Stdio};

use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::{Error, Result, Subscriber};
use outbox_relay::Relay;
use outbox_relay::config::Environment;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use crate::cli::{Options, Role};
use crate::database::{Database, Service};
use crate::report::Counts;
use crate::servers::{Names, Place};
use crate::story::Parts;

/// The children; each ends when its standard input does, so none outlives this process.
pub(crate) struct Processes {
    folder: tempfile::TempDir,
    broker: String,
    names: Names,
    urls: [String; 3],
    running: [Option<Running>; Role::ALL.len()],
}

struct Running {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Processes {
    /// Writes the relay's configuration; starts nothing.
    pub(crate) fn new(place: &Place, broker: &str, names: Names, crash: bool) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Error::application)?;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let config = format!(
            "[broker]\nurl = {}\nexchange = {}\n\n\
             [[outbox]]\nname = \"product\"\ndatabase = {}\nlease = \"{}\"\n",
            quoted(broker),
            quoted(&names.exchange()),
            quoted(place.url(Service::Product)),
            if crash { "1s" } else { "10s" },
        );
        std::fs::write(folder.path().join("outbox-relay.toml"), config).map_err(Error::application)?;
        Ok(Self {
            folder,
            broker: broker.to_owned(),
            names,
            urls: place.urls().clone(),
            running: [const { None }; Role::ALL.len()],
        })
    }
}

impl Parts for Processes {
    async fn start(&mut self, role: Role) -> Result<()> {
        let program = std::env::current_exe().map_err(Error::application)?;
        let mut command = Command::new(program);
        command.arg("--role").arg(match role {
            Role::Relay => "relay",
            Role::Order => "order",
            Role::OrderToo => "order-too",
            Role::Purchase => "purchase",
        });
        command.arg("--config").arg(self.folder.path().join("outbox-relay.toml"));
        command.arg("--broker").arg(&self.broker).arg("--run").arg(&self.names.run);
        self.urls.iter().for_each(|url| {
            command.arg("--database").arg(url);
        });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(Error::application)?;
        let output =
            child.stdout.take().ok_or_else(|| Error::application("a child without standard output"))?;
        let mut output = BufReader::new(output).lines();
        match output.next_line().await.map_err(Error::application)? {
            Some(line) if line == "ready" => {}
            _ => return Err(Error::application(format!("the {role:?} process did not start"))),
        }
        self.running[role as usize] = Some(Running { child, output });
        Ok(())
    }

    async fn kill(&mut self, role: Role) {
        if let Some(mut running) = self.running[role as usize].take() {
            // Fails only when it has ended already.
            let _ = running.child.kill().await;
        }
    }

    async fn finish(mut self) -> Result<Counts> {
        let mut counts = Counts::default();
        for running in self.running.iter_mut().filter_map(Option::take) {
            let Running { mut child, mut output } = running;
            drop(child.stdin.take());
            while let Some(line) = output.next_line().await.map_err(Error::application)? {
                counts += serde_json::from_str::<Counts>(&line)?;
            }
            let status = child.wait().await.map_err(Error::application)?;
            if !status.success() {
                return Err(Error::application(format!("a child process ended with {status}")));
            }
        }
        Ok(counts)
    }
}

/// Plays one part until standard input ends; prints `ready` first and its counts last.
pub(crate) async fn play(role: Role, options: &Options) -> ExitCode {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        // The parent never writes: this returns when it closes the pipe or is gone.
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        stop.cancel();
    });
    let played = match options.database.first().map(String::as_str) {
        _ if role == Role::Relay => relay(options, shutdown).await,
        Some(url) if url.starts_with("mysql") => {
            subscriber::<diesel::MysqlConnection>(role, options, shutdown).await
        }
        Some(url) if url.starts_with("postgres") => {
            subscriber::<diesel::PgConnection>(role, options, shutdown).await
        }
        _ => subscriber::<diesel::SqliteConnection>(role, options, shutdown).await,
    };
    match played.and_then(|counts| Ok(serde_json::to_string(&counts)?)) {
        Ok(counts) => {
            println!("{counts}");
            // The thread that reads standard input may still be at it; it holds nothing.
            std::process::exit(0)
        }
        Err(error) => {
            eprintln!("supply-chain {role:?}: {error}");
            std::process::exit(1)
        }
    }
}

async fn relay(options: &Options, shutdown: CancellationToken) -> Result<Counts> {
    let path = options.config.as_deref().ok_or_else(|| Error::application("--config is missing"))?;
    let config =
        outbox_relay::config::from_file(path, &Environment::of_process()).map_err(Error::application)?;
    let relay = Relay::from_config(&config)?;
    let statuses = relay.statuses();
    println!("ready");
    relay.run(shutdown).await?;
    let published = statuses.iter().map(|status| status.snapshot().published).sum();
    Ok(Counts { published, ..Counts::default() })
}

async fn subscriber<C: Database>(
    role: Role,
    options: &Options,
    shutdown: CancellationToken,
) -> Result<Counts> {
    let names = Names { run: options.run.clone() };
    let broker = RabbitMq::new(options.broker.as_deref().unwrap_or_default())?.exchange(names.exchange());
    let pool = C::pool(&options.database[role.service() as usize])?;
    let name = names.subscriber(role.service());
    let subscriber: Subscriber<_, C> = match role {
        Role::Purchase => C::purchase_subscriber(name, broker, pool),
        _ => C::order_subscriber(name, broker, pool),
    };
    subscriber.declare().await?;
    let stats = subscriber.stats();
    println!("ready");
    subscriber.run(shutdown).await?;
    Ok(crate::tasks::subscriber_counts(&stats))
}
