//! `neuronetz model alias …`

use clap::Subcommand;
use protocol::name::ModelName;
use serde::Serialize;
use storage::{Storage, aliases::Alias};

use super::{
    arguments,
    failure::Failure,
    output::{Out, Row},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Lets a name stand for a model, and for others where that one cannot be had.
    Set {
        /// The name that clients ask for.
        name: String,
        /// The model that is meant.
        model: String,
        /// Models that stand in for it, tried in this order.
        #[arg(long, value_name = "A,B", value_delimiter = ',')]
        fallback: Vec<String>,
        /// Only for this tenant. Default: for everybody who has no such name of their own.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Lists the names that stand for models.
    List,
    /// Removes one.
    Remove {
        /// The name.
        name: String,
        /// This tenant's own.
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(Serialize)]
struct View {
    name: String,
    models: Vec<String>,
    /// Null: for everybody.
    tenant: Option<String>,
}

pub(super) async fn run(
    storage: &Storage,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    match command {
        Command::Set { name, model, fallback, tenant } => {
            let (name, whose) = (named(&name)?, arguments::tenant_id(storage, tenant.as_deref()));
            let models = std::iter::once(&model).chain(&fallback);
            let targets: Vec<_> = models.map(|name| named(name)).collect::<Result<_, _>>()?;
            let alias = Alias { tenant: whose.await?, name, targets };
            storage.aliases.put(alias.clone()).await?;
            Ok(out.one(&View::new(&alias, tenant))?)
        }
        Command::List => {
            let tenants = storage.tenants.list().await?;
            let all = storage.aliases.list().await?;
            let views = all.iter().map(|alias| {
                let owner = tenants.iter().find(|tenant| Some(tenant.id) == alias.tenant);
                View::new(alias, owner.map(|tenant| tenant.name.clone()))
            });
            let views: Vec<_> = views.collect();
            Ok(out.rows(&views, "There are no aliases: neuronetz model alias set NAME MODEL")?)
        }
        Command::Remove { name, tenant } => {
            let whose = arguments::tenant_id(storage, tenant.as_deref()).await?;
            storage.aliases.remove(whose, &named(&name)?).await?;
            Ok(out.said(&format!("{name} is removed."), &serde_json::json!({ "removed": name }))?)
        }
    }
}

fn named(name: &str) -> Result<ModelName, Failure> {
    ModelName::read(name).map_err(|_| Failure::Usage(format!("{name:?} is no name of a model")))
}

// === impl View ===

impl View {
    fn new(alias: &Alias, tenant: Option<String>) -> Self {
        let models = alias.targets.iter().map(|name| name.as_str().to_owned()).collect();
        Self { name: alias.name.as_str().to_owned(), models, tenant }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] = &["NAME", "MODELS", "TENANT"];

    fn cells(&self) -> Vec<String> {
        let tenant = self.tenant.clone().unwrap_or_else(|| "everybody".to_owned());
        vec![self.name.clone(), self.models.join(" or else "), tenant]
    }
}
