//! Models made on the spot: real safetensors with random weights.
//!
//! The repository is what a Llama's looks like on the Hub: sharded safetensors with their index,
//! configuration and tokenizer that `transformers` loads, and what an engine must not fetch:
//! duplicate pickle shards and the vendor's `original/` directory. Equal recipes give equal bytes.
//!
//! Weights are finite bf16 numbers from one pool that all tensors share, so a model of many
//! gigabytes takes the memory of the pool; its files still differ. The pickle files have the right
//! names and sizes but cannot be loaded.

use std::io;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::content::Content;
use crate::hub::RepoFile;
use crate::parallel;
use crate::random::Random;

mod tokenizer;

#[cfg(test)]
mod tests;

/// Largest pool of random weights. Odd in pages, so that tensors do not repeat in step with it.
const POOL: u64 = (64 << 20) + 4096;

/// Bytes of a bf16 number.
const BF16: u64 = 2;

/// Most decoder layers before the model gets wider instead of deeper.
const LAYERS: u64 = 32;

/// What model to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What its bytes follow from.
    pub seed: u64,
    /// About how many bytes of weights; a model has at least some 60 kB.
    pub bytes: u64,
    /// Into how many safetensors files they go.
    pub shards: usize,
    /// Whether the weights are there a second time as pickle files.
    pub pickles: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            bytes: 100_000,
            shards: 2,
            pickles: true,
        }
    }
}

/// A model's files, sorted by path.
#[derive(Clone, Debug)]
pub struct Model {
    /// What to commit to a Hub.
    pub files: Vec<RepoFile>,
}

impl Model {
    /// Makes a model. Hashing takes most of the time: well over a gigabyte per second and core.
    ///
    /// # Errors
    /// Never with content in memory; the signature is that of hashing.
    pub fn make(recipe: Recipe) -> io::Result<Self> {
        let shape = Shape::about(recipe.bytes);
        let weights = Weights::new(recipe.seed, recipe.bytes);
        let shards = share_out(shape.tensors(), recipe.shards.max(1));
        let count = shards.len();

        let mut files: Vec<(String, Content)> = small_files(&shape);
        let mut map = Map::new();
        let mut total = 0;
        for (number, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
            for tensor in shard {
                map.insert(tensor.name.clone(), json!(name));
                total += tensor.bytes();
            }
            files.push((name, weights.safetensors(shard)));
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        files.push(("model.safetensors.index.json".to_owned(), pretty(&index)));
        if recipe.pickles {
            let mut map = Map::new();
            for (number, shard) in shards.iter().enumerate() {
                let name = format!("pytorch_model-{:05}-of-{count:05}.bin", number + 1);
                let bytes = shard.iter().map(Tensor::bytes).sum();
                map.extend(
                    shard
                        .iter()
                        .map(|tensor| (tensor.name.clone(), json!(name))),
                );
                let content = weights.span(&format!("pickle {name}"), bytes);
                files.push((name, Content::rope(content)));
            }
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            files.push(("pytorch_model.bin.index.json".to_owned(), pretty(&index)));
        }
        let original = weights.span("original", total);
        files.push((
            "original/consolidated.00.pth".to_owned(),
            Content::rope(original),
        ));
        Ok(Self {
            files: hashed(files)?,
        })
    }

    /// Bytes of the safetensors files.
    pub fn safetensors_bytes(&self) -> u64 {
        let mut bytes = 0;
        for file in &self.files {
            if file.path.ends_with(".safetensors") {
                bytes += file.content.len();
            }
        }
        bytes
    }

    /// One of its files.
    pub fn file(&self, path: &str) -> Option<&RepoFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// Hashes all files side by side; sorted by path.
fn hashed(mut files: Vec<(String, Content)>) -> io::Result<Vec<RepoFile>> {
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let hash = |(path, content): &(String, Content)| RepoFile::new(path.clone(), content.clone());
    parallel::map(&files, hash).into_iter().collect()
}

/// The dimensions of a Llama.
#[derive(Clone, Copy, Debug)]
struct Shape {
    hidden: u64,
    layers: u64,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * BF16
    }
}

impl Shape {
    /// The narrowest that has about so many bytes in at most [`LAYERS`] layers, at least two.
    fn about(bytes: u64) -> Self {
        let mut hidden = 16;
        let size = |hidden, layers| Self { hidden, layers }.bytes();
        while size(hidden, LAYERS) < bytes && hidden < 16384 {
            hidden *= 2;
        }
        let fixed = size(hidden, 0);
        let each = size(hidden, 1) - fixed;
        let layers = ((bytes.saturating_sub(fixed) + each / 2) / each).max(2);
        Self { hidden, layers }
    }

    fn intermediate(&self) -> u64 {
        4 * self.hidden
    }

    fn heads(&self) -> u64 {
        (self.hidden / 64).max(2)
    }

    fn bytes(&self) -> u64 {
        self.tensors().iter().map(Tensor::bytes).sum()
    }

    fn tensors(&self) -> Vec<Tensor> {
        let Self { hidden, layers } = *self;
        let (wide, vocabulary) = (self.intermediate(), tokenizer::SIZE);
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[u64]| {
            let shape = shape.to_vec();
            tensors.push(Tensor { name, shape });
        };
        add(
            "model.embed_tokens.weight".to_owned(),
            &[vocabulary, hidden],
        );
        for layer in 0..layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                add(name(&format!("self_attn.{part}")), &[hidden, hidden]);
            }
            add(name("mlp.gate_proj"), &[wide, hidden]);
            add(name("mlp.up_proj"), &[wide, hidden]);
            add(name("mlp.down_proj"), &[hidden, wide]);
            add(name("input_layernorm"), &[hidden]);
            add(name("post_attention_layernorm"), &[hidden]);
        }
        add("model.norm.weight".to_owned(), &[hidden]);
        add("lm_head.weight".to_owned(), &[vocabulary, hidden]);
        tensors
    }
}

/// Tensors in order, split where the bytes are about equal; fewer shards than asked for if there
/// are fewer tensors.
fn share_out(tensors: Vec<Tensor>, shards: usize) -> Vec<Vec<Tensor>> {
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    let mut shared = vec![Vec::new(); shards];
    let mut before = 0;
    for tensor in tensors {
        let middle = before + tensor.bytes() / 2;
        before += tensor.bytes();
        let shard = (middle as u128 * shards as u128 / total as u128) as usize;
        shared[shard.min(shards - 1)].push(tensor);
    }
    shared.retain(|shard| !shard.is_empty());
    shared
}

/// A pool of random bf16 numbers.
struct Weights {
    seed: u64,
    pool: Bytes,
}

impl Weights {
    fn new(seed: u64, bytes: u64) -> Self {
        let len = bytes.clamp(4096, POOL) as usize & !1;
        let mut pool = Random::new(seed).bytes(len);
        // Without the exponent's highest bit every number is finite and less than two.
        for high in pool.iter_mut().skip(1).step_by(2) {
            *high &= 0b1011_1111;
        }
        Self {
            seed,
            pool: pool.into(),
        }
    }

    /// `bytes` of the pool, beginning at a place that follows from `name`.
    fn span(&self, name: &str, bytes: u64) -> Vec<Bytes> {
        let start = name.bytes().fold(self.seed, |sum, byte| {
            Random::new(sum ^ u64::from(byte)).next()
        });
        let len = self.pool.len() as u64;
        let mut at = (start % len) as usize & !1;
        let (mut left, mut pieces) = (bytes, Vec::new());
        while left > 0 {
            let take = left.min(len - at as u64) as usize;
            pieces.push(self.pool.slice(at..at + take));
            left -= take as u64;
            at = 0;
        }
        pieces
    }

    /// The file format of safetensors: length of the header, header, tensors one after the other.
    fn safetensors(&self, tensors: &[Tensor]) -> Content {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut at = 0;
        for tensor in tensors {
            let end = at + tensor.bytes();
            let entry = json!({
                "dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end],
            });
            header.insert(tensor.name.clone(), entry);
            at = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut front = (header.len() as u64).to_le_bytes().to_vec();
        front.append(&mut header);
        let data = tensors
            .iter()
            .flat_map(|tensor| self.span(&tensor.name, tensor.bytes()));
        Content::rope(std::iter::once(Bytes::from(front)).chain(data))
    }
}

fn small_files(shape: &Shape) -> Vec<(String, Content)> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer::SIZE,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(),
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads(),
        "num_key_value_heads": shape.heads(),
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": false,
        "tie_word_embeddings": false,
        "bos_token_id": tokenizer::BEGIN,
        "eos_token_id": tokenizer::END,
        "torch_dtype": "bfloat16",
        "use_cache": true,
    });
    let generation = json!({
        "_from_model_config": true,
        "bos_token_id": tokenizer::BEGIN,
        "eos_token_id": tokenizer::END,
        "max_length": 128,
    });
    let original =
        json!({ "dim": shape.hidden, "n_layers": shape.layers, "n_heads": shape.heads() });
    let readme = "---\nlicense: apache-2.0\nlibrary_name: transformers\n\
                  pipeline_tag: text-generation\n---\n\n# A made-up Llama\n\n\
                  Random weights for trying things out. It has learned nothing.\n";
    let attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n\
                      *.pth filter=lfs diff=lfs merge=lfs -text\n\
                      *.safetensors filter=lfs diff=lfs merge=lfs -text\n";
    let files = [
        (".gitattributes", Content::from(attributes)),
        ("README.md", readme.into()),
        ("config.json", pretty(&config)),
        ("generation_config.json", pretty(&generation)),
        ("original/params.json", pretty(&original)),
        ("tokenizer.json", pretty(&tokenizer::tokenizer())),
        ("tokenizer_config.json", pretty(&tokenizer::config())),
    ];
    files
        .map(|(path, content)| (path.to_owned(), content))
        .into()
}

fn pretty(value: &Value) -> Content {
    format!("{value:#}\n").into()
}
