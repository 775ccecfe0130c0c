//! `anchorhold plan`: what a start of an image would take of this host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anchorhold_images::{Image, Unmeasured};
use anchorhold_parent::Backend;
use anchorhold_parent::nitro::hardware::Hardware;
use anchorhold_parent::nitro::plan::{Need, Plan};
use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::doctor::wanted;
use super::run::BackendArgument;

#[derive(Args)]
#[command(
    after_help = "Example:\n  anchorhold plan cards.eif --backend nitro --json\n\n\
    Nothing is started or taken. Exit code 1: the host has too little; what is missing is said with its remedy."
)]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// Where it would run
    #[arg(long, value_enum, default_value_t = BackendArgument::Auto)]
    backend: BackendArgument,
    /// Memory; default: the manifest's
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..))]
    memory: Option<u32>,
    /// Processors; default: the manifest's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpus: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let cannot = || format!("cannot plan {}", arguments.image.display());
    let image = Image::open(&arguments.image).with_context(cannot)?;
    let manifest = image.manifest().with_context(cannot)?;
    let (backend, why) = match arguments.backend {
        BackendArgument::Nitro => (Backend::Nitro, None),
        BackendArgument::Qemu => (Backend::Qemu, None),
        BackendArgument::Sandbox => (Backend::Sandbox, None),
        BackendArgument::Auto => {
            let unmeasured = Unmeasured::open(&arguments.image).with_context(cannot)?;
            let (backend, why) = Backend::best_for(&unmeasured).with_context(cannot)?;
            (backend, Some(why))
        }
    };
    let wanted = wanted(&image, manifest.as_ref(), arguments.memory, arguments.cpus)?;
    let mut plan = json!({
        "backend": backend,
        "memoryMib": wanted.memory_mib,
        "cpus": wanted.cpus,
    });
    if let Some(why) = why {
        plan["why"] = why.into();
    }
    if backend == Backend::Nitro {
        let hardware = Hardware::read(Path::new("/sys"))?;
        let need = Need {
            memory_mib: wanted.memory_mib,
            cpus: wanted.cpus,
            image_bytes: wanted.image_bytes,
        };
        let taken = Plan::of(&hardware, need)?;
        plan["memoryMib"] = (taken.memory_bytes >> 20).into();
        plan["node"] = taken.node.into();
        plan["pages"] = taken
            .pages
            .iter()
            .map(|(bytes, count)| json!({"mib": bytes >> 20, "count": count}))
            .collect();
        plan["remarks"] = json!(taken.remarks);
    }
    anyhow::ensure!(
        backend == Backend::Sandbox || wanted.has_kernel,
        "{} has no kernel: build it with `anchorhold build --kernel FILE`",
        arguments.image.display()
    );
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        print_for_people(&plan);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_for_people(plan: &Value) {
    let text = |name: &str| plan[name].as_str().unwrap_or_default().to_owned();
    match plan.get("why") {
        Some(_) => println!("backend {} ({})", text("backend"), text("why")),
        None => println!("backend {}", text("backend")),
    }
    println!("  memory     {} MiB", plan["memoryMib"]);
    println!("  processors {}", plan["cpus"]);
    for pages in plan["pages"].as_array().into_iter().flatten() {
        println!(
            "  takes      {} huge pages of {} MiB on NUMA node {}",
            pages["count"], pages["mib"], plan["node"]
        );
    }
    for remark in plan["remarks"].as_array().into_iter().flatten() {
        println!("  note       {}", remark.as_str().unwrap_or_default());
    }
}
