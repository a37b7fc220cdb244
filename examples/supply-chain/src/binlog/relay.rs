//! The relay of the story: a task of this process, or a process of its own that can be killed.

use std::process::{ExitCode, Stdio};

use outbox_core::{Error, Result};
use outbox_relay::config::{Config, Environment, ReplicationConfig, ReplicationTableConfig};
use outbox_relay::replication::{Replication, run_all};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::Options;
use crate::database::Service;
use crate::servers::Place;

/// The relay and what it is to do.
pub(super) struct Relay {
    replications: [ReplicationConfig; 2],
    /// Where the configuration of the process is; `None`: it is a task.
    folder: Option<tempfile::TempDir>,
    running: Option<Running>,
}

enum Running {
    Task(JoinHandle<Result<()>>, CancellationToken),
    /// It ends when its standard input does, so it does not outlive this process.
    Process(Child),
}

impl Relay {
    /// Starts nothing.
    pub(super) fn new(place: &Place, is_process: bool) -> Result<Self> {
        let replications = replications(place)?;
        let folder = is_process.then(|| write(&replications)).transpose()?;
        Ok(Self { replications, folder, running: None })
    }

    pub(super) async fn start(&mut self) -> Result<()> {
        self.running = Some(match &self.folder {
            None => {
                let shutdown = CancellationToken::new();
                let (replications, stop) = (self.replications.to_vec(), shutdown.clone());
                Running::Task(tokio::spawn(async move { run(&replications, stop).await }), shutdown)
            }
            Some(folder) => {
                let program = std::env::current_exe().map_err(Error::application)?;
                let mut command = Command::new(program);
                command.args(["--mode", "binlog", "--role", "relay", "--config"]);
                command.arg(folder.path().join(FILE));
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
                let mut child = command.spawn().map_err(Error::application)?;
                let output =
                    child.stdout.take().ok_or_else(|| Error::application("a child without output"))?;
                let line = BufReader::new(output).lines().next_line().await.map_err(Error::application)?;
                if line.as_deref() != Some("ready") {
                    return Err(Error::application("the relay's process did not start"));
                }
                Running::Process(child)
            }
        });
        Ok(())
    }

    /// Ends a process without letting it finish anything.
    pub(super) async fn kill(&mut self) {
        if let Some(Running::Process(mut child)) = self.running.take() {
            // Fails only when it has ended already.
            let _ = child.kill().await;
        }
    }

    /// Ends it in good order, then brings the copies up to all that was committed.
    pub(super) async fn finish(mut self) -> Result<()> {
        match self.running.take() {
            Some(Running::Task(task, shutdown)) => {
                shutdown.cancel();
                task.await.unwrap_or_else(|e| Err(Error::application(e)))?;
            }
            Some(Running::Process(mut child)) => {
                drop(child.stdin.take());
                let status = child.wait().await.map_err(Error::application)?;
                if !status.success() {
                    return Err(Error::application(format!("the relay's process ended with {status}")));
                }
            }
            None => {}
        }
        catch_up(&self.replications).await
    }
}

/// The configuration's file name.
const FILE: &str = "outbox-relay.toml";

/// What order and purchase copy.
fn replications(place: &Place) -> Result<[ReplicationConfig; 2]> {
    let source = place.url(Service::Product);
    let url = url::Url::parse(source).map_err(Error::application)?;
    let database = url.path().trim_matches('/');
    let table = |name: &str| ReplicationTableConfig {
        create: true,
        ..ReplicationTableConfig::new(format!("{database}.{name}"))
    };
    let product = |target: &str, columns: &[&str]| ReplicationTableConfig {
        target: Some(target.to_owned()),
        columns: columns.iter().map(ToString::to_string).collect(),
        create: false,
        ..table("product")
    };
    let mut order = ReplicationConfig::new("order", source, place.url(Service::Order));
    order.table = vec![
        product(
            "product_copy",
            &["id", "sku", "name", "category", "warranty_months", "price_cents as unit_price_cents"],
        ),
        table("category"),
        table("warranty"),
    ];
    let mut purchase = ReplicationConfig::new("purchase", source, place.url(Service::Purchase));
    purchase.table = vec![
        ReplicationTableConfig {
            filter: Some("status = 'active'".into()),
            ..product("stocked_product", &["id", "sku", "name", "batch", "status"])
        },
        table("batch"),
    ];
    Ok([order, purchase])
}

/// Writes the same as a file.
fn write(replications: &[ReplicationConfig]) -> Result<tempfile::TempDir> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = String::new();
    for replication in replications {
        let (source, target) = (replication.source.expose(), replication.target.expose());
        text += &format!(
            "[[replication]]\nname = {}\nsource = {}\ntarget = {}\n",
            quoted(&replication.name),
            quoted(source),
            quoted(target)
        );
        for table in &replication.table {
            text += &format!(
                "[[replication.table]]\nsource = {}\ntarget = {}\ncreate = {}\ncolumns = {}\n",
                quoted(&table.source),
                quoted(table.target_name()),
                table.create,
                serde_json::Value::from(table.columns.clone())
            );
            if let Some(filter) = &table.filter {
                text += &format!("where = {}\n", quoted(filter));
            }
        }
    }
    let folder = tempfile::tempdir().map_err(Error::application)?;
    std::fs::write(folder.path().join(FILE), text).map_err(Error::application)?;
    Ok(folder)
}

/// Plays the relay until standard input ends; prints `ready` first.
pub(crate) async fn play(options: &Options) -> ExitCode {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        // The parent never writes: this returns when it closes the pipe or is gone.
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        stop.cancel();
    });
    let played = async {
        let path = options.config.as_deref().ok_or_else(|| Error::application("--config is missing"))?;
        let config: Config =
            outbox_relay::config::from_file(path, &Environment::of_process()).map_err(Error::application)?;
        println!("ready");
        run(&config.replication, shutdown).await
    };
    match played.await {
        // The thread that reads standard input may still be at it; it holds nothing.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("supply-chain relay: {error}");
            std::process::exit(1)
        }
    }
}

/// Runs all replications side by side until they are told to end.
async fn run(replications: &[ReplicationConfig], shutdown: CancellationToken) -> Result<()> {
    let replications = replications.iter().map(Replication::from_config).collect::<Result<_>>()?;
    run_all(replications, shutdown).await;
    Ok(())
}

/// Brings all copies up to what is committed now.
async fn catch_up(replications: &[ReplicationConfig]) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for config in replications {
        tasks.spawn(Replication::from_config(config)?.run_until_idle(CancellationToken::new()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Some(left) = ended.unwrap_or_else(|e| Err(Error::application(e)))? {
            return Err(Error::application(format!(
                "{} cannot be applied: {:?}",
                left.replication, left.copies
            )));
        }
    }
    Ok(())
}
