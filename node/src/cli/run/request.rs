//! What is asked to run, put together from the command line: document, parameters, files, binding, strategy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use catalog::Digest;
use clap::Args;
use scheduler::place::Strategy;
use scheduler::run::Submission;
use scheduler::task::Stage;
use scheduler::value::{DirRef, FileRef, Value};
use scheduler::workflow::{AssetKind, ParamType, Workflow};

use crate::cli::client::Client;
use crate::cli::document::Document;
use crate::cli::download;
use crate::cli::error::CliError;
use crate::cli::image::named;
use crate::cli::upload::Sink;
use crate::engine::images::ImageView;
use crate::engine::images::name::ImageName;

/// The arguments of `run submit` and `workflow plan`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Request {
    /// The workflow document, YAML or JSON
    pub(crate) file: PathBuf,
    /// A document that says where steps may go and what they may cost
    #[arg(long, value_name = "FILE")]
    pub(crate) binding: Option<PathBuf>,
    /// A collaborative area under whose rules it is done, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) area: Option<String>,
    /// What placement optimises: sovereignty, performance, cost, or weights like `performance=2,cost=1`
    #[arg(long, value_name = "S", value_parser = str::parse::<Strategy>)]
    pub(crate) strategy: Option<Strategy>,
    /// A parameter; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<Pair>,
    /// A parameter that is a file or directory; may be repeated
    #[arg(long = "input", value_name = "NAME=PATH")]
    pub(crate) inputs: Vec<Pair>,
}

/// `NAME=TEXT`.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    name: String,
    text: String,
}

/// The text has no name in front of an equals sign.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("write NAME=VALUE")]
pub(crate) struct PairError;

impl FromStr for Pair {
    type Err = PairError;
    fn from_str(text: &str) -> Result<Self, PairError> {
        match text.split_once('=') {
            Some((name, text)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), text: text.to_owned() })
            }
            _ => Err(PairError),
        }
    }
}

impl Pair {
    pub(crate) fn new(name: &str, text: &Path) -> Self {
        Self { name: name.to_owned(), text: text.display().to_string() }
    }
}

impl Request {
    /// Reads the documents, checks what can be checked here, and brings the files to `sink`. `client` is asked about blobs that
    /// the document names by digest.
    pub(crate) async fn prepare(
        &self,
        sink: Sink<'_>,
        client: Option<&Client>,
    ) -> Result<(Workflow, Submission), CliError> {
        let document = Document::read(&self.file)?;
        let binding = match &self.binding {
            Some(file) => Some(document.read_binding(file)?),
            None => None,
        };
        let workflow = &document.workflow;
        // Checked with stand-ins for the files first: a misspelt name should not cost an upload.
        let stand_in = |given: &Given| given.stand_in();
        let given = self.given(workflow)?;
        let checked = given.iter().map(|(name, given)| (name.clone(), stand_in(given))).collect();
        workflow.bind_params(checked).map_err(CliError::Params)?;
        let mut values = BTreeMap::new();
        for (name, given) in given {
            values.insert(name, given.resolve(sink, client).await?);
        }
        let params = workflow.bind_params(values).map_err(CliError::Params)?;
        let assets = assets(&document, sink, client).await?;
        let submission = Submission {
            source: document.source,
            params,
            assets,
            binding,
            strategy: self.strategy,
            replica: None,
            area: self.area.clone(),
        };
        Ok((document.workflow, submission))
    }

    /// What the command line gives for each parameter. Whether a text is a path is for the parameter's type to say.
    fn given(&self, workflow: &Workflow) -> Result<BTreeMap<String, Given>, CliError> {
        let mut all: BTreeMap<String, Given> = BTreeMap::new();
        let params = self.params.iter().map(|pair| (pair, false));
        for (pair, is_input) in params.chain(self.inputs.iter().map(|pair| (pair, true))) {
            let kind = workflow.params.get(&pair.name).map(|decl| decl.kind);
            let path = PathBuf::from(&pair.text);
            let given = match kind {
                Some(ParamType::File) => Given::File(path),
                Some(ParamType::Dir) => Given::Dir(path),
                Some(ParamType::List) if is_input => Given::Files(vec![path]),
                _ => Given::Text(pair.text.clone()),
            };
            match (all.get_mut(&pair.name), given) {
                (None, given) => {
                    all.insert(pair.name.clone(), given);
                }
                (Some(Given::Files(files)), Given::Files(more)) => files.extend(more),
                (Some(_), _) => {
                    let what = format!("`{}` is given twice", pair.name);
                    return Err(CliError::usage(what));
                }
            }
        }
        Ok(all)
    }
}

#[derive(Debug)]
enum Given {
    Text(String),
    File(PathBuf),
    Dir(PathBuf),
    Files(Vec<PathBuf>),
}

impl Given {
    /// A value of the same type.
    fn stand_in(&self) -> Value {
        let (digest, size, name) = (Digest::of(b""), 0, String::new());
        match self {
            Self::Text(text) => Value::Text(text.clone()),
            Self::File(_) => Value::File(FileRef { digest, size, name }),
            Self::Dir(_) => Value::Dir(DirRef { digest, size, name }),
            Self::Files(files) => {
                Value::List(vec![Value::File(FileRef { digest, size, name }); files.len()])
            }
        }
    }

    async fn resolve(self, sink: Sink<'_>, client: Option<&Client>) -> Result<Value, CliError> {
        Ok(match self {
            Self::Text(text) => Value::Text(text),
            Self::File(path) => {
                let name = path.to_str().and_then(|text| disk_image(&path, text));
                match (name, client) {
                    (Some(name), Some(client)) => Value::File(disk_file(client, sink, name).await?),
                    _ => Value::File(sink.file(&path).await?),
                }
            }
            Self::Dir(path) => Value::Dir(sink.dir(&path).await?),
            Self::Files(paths) => {
                let mut files = Vec::with_capacity(paths.len());
                for path in &paths {
                    files.push(Value::File(sink.file(path).await?));
                }
                Value::List(files)
            }
        })
    }
}

/// The name of the disk image that a text means: `image:NAME`, where there is no file that is called so.
pub(crate) fn disk_image<'t>(path: &Path, text: &'t str) -> Option<&'t str> {
    text.strip_prefix("image:").filter(|name| !name.is_empty() && !path.exists())
}

/// The content of a disk image, which the node fetches when it is another node's and tasks are to have it.
async fn disk_file(client: &Client, sink: Sink<'_>, name: &str) -> Result<FileRef, CliError> {
    let disk = named(client, name, matches!(sink, Sink::Node(_))).await?;
    Ok(FileRef {
        digest: disk.digest,
        size: disk.size,
        name: format!("{}.{}", disk.name, disk.format),
    })
}

/// The files and directories that the document names, by the text that names them.
pub(crate) async fn assets(
    document: &Document,
    sink: Sink<'_>,
    client: Option<&Client>,
) -> Result<BTreeMap<String, Stage>, CliError> {
    let mut assets = BTreeMap::new();
    for asset in document.workflow.asset_paths() {
        let path = document.path(&asset);
        if let Some(name) = document.image(&asset) {
            if let Some(client) = client {
                assets.insert(asset.path, Stage::Dir(image(client, &name).await?));
            }
            continue;
        }
        let stage = match asset.kind {
            AssetKind::File => match (disk_image(&path, &asset.path), client) {
                (Some(name), Some(client)) => Stage::File(disk_file(client, sink, name).await?),
                _ => Stage::File(sink.file(&path).await?),
            },
            AssetKind::Dir => Stage::Dir(sink.dir(&path).await?),
        };
        assets.insert(asset.path, stage);
    }
    for (digest, kind) in document.workflow.blobs() {
        let Some(client) = client else { continue };
        if kind == AssetKind::Dir {
            let manifest = download::manifest(client, &digest).await?;
            let dir = DirRef { digest, size: manifest.size(), name: digest.to_hex() };
            assets.insert(digest.to_string(), Stage::Dir(dir));
            continue;
        }
        let size = match client.blob_size(&digest).await? {
            Some(size) => size,
            // Asking for the bytes makes the node fetch them; the length is all that is wanted here.
            None => {
                client.open(&format!("/blobs/{digest}"), &[]).await?.content_length().unwrap_or(0)
            }
        };
        let name = format!("{}.wasm", digest.to_hex());
        assets.insert(digest.to_string(), Stage::File(FileRef { digest, size, name }));
    }
    Ok(assets)
}

/// The directory of an image of the node, or of others, who are asked when the node has none of this name. So a run is fixed
/// to what the name means when it is submitted.
async fn image(client: &Client, name: &ImageName) -> Result<DirRef, CliError> {
    let text = name.to_string();
    let found: Result<ImageView, _> = client.get("/images/image", &[("name", &text)]).await;
    let image = match found {
        Err(CliError::Problem(problem)) if problem.code == "no_image" => {
            client.post_long("/images/pull", &serde_json::json!({"name": text})).await?
        }
        found => found?,
    };
    image.directory.ok_or_else(|| {
        let what = format!("a part of the image `{name}` is not on this node: push it again");
        CliError::usage(what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        let pair: Pair = "a=b=c".parse().unwrap();
        assert_eq!((pair.name.as_str(), pair.text.as_str()), ("a", "b=c"));
        for bad in ["", "a", "=b"] {
            assert!(bad.parse::<Pair>().is_err(), "{bad}");
        }
    }
}
