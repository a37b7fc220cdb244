//! The options of the story.

use clap::{Parser, ValueEnum};

use crate::database::Service;

/// A supply chain of three services that share product data through an outbox.
///
/// The product service writes products; order and purchase each keep a copy in a database of their own and
/// join it with their lines. Exits 0 only if both copies equal the product database at the end.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Where the services keep their data: once, a server on which three databases are made for this run
    /// and dropped after it; or three times, existing empty databases of product, order and purchase.
    /// mysql:// and postgres:// need `--features servers`. Default: three SQLite files in a temporary folder.
    #[arg(long, value_name = "URL")]
    pub(crate) database: Vec<String>,

    /// RabbitMQ, amqp://user:password@host:port/vhost; needs `--features servers`. Default: a broker
    /// inside this process.
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,

    /// How changes travel.
    #[arg(long, value_enum, default_value_t = Mode::Messages)]
    pub(crate) mode: Mode,

    /// How many changes the product service writes.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(crate) changes: u64,

    /// The seed of the generated changes; the same seed makes the same changes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Kills and restarts relay and subscribers while changes are written: processes by SIGKILL with
    /// --broker and in binlog mode, tasks at any await point without.
    #[arg(long)]
    pub(crate) crash: bool,

    /// Runs the relay and the three subscribers as processes of their own; needs --broker. --crash with --broker
    /// does so in any case.
    #[arg(long, requires = "broker")]
    pub(crate) processes: bool,

    /// Keeps the databases that were made for this run, and names them.
    #[arg(long)]
    pub(crate) keep: bool,

    /// Shows the web console (comes with a later version).
    #[arg(long)]
    pub(crate) console: bool,

    /// Prints the summary as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,

    /// What a child process of the story plays.
    #[arg(long, value_enum, hide = true)]
    pub(crate) role: Option<Role>,

    /// What sets this run's exchange and queues apart from those of other runs.
    #[arg(long, hide = true, default_value = "")]
    pub(crate) run: String,

    /// The relay's configuration, for a child process that plays it.
    #[arg(long, hide = true)]
    pub(crate) config: Option<std::path::PathBuf>,
}

/// How changes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Entity → outbox → relay → broker → inbox → copy.
    Messages,
    /// From the binary log of MySQL or MariaDB straight into the copies, without outbox and broker.
    Binlog,
}

/// A part that can be killed and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Relay,
    Order,
    /// The order service's second process; each of the two queues goes to one of them, and to the other when that ends.
    OrderToo,
    Purchase,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Relay, Self::Order, Self::OrderToo, Self::Purchase];

    /// The service whose database the part works on.
    pub(crate) fn service(self) -> Service {
        match self {
            Self::Relay => Service::Product,
            Self::Order | Self::OrderToo => Service::Order,
            Self::Purchase => Service::Purchase,
        }
    }
}
