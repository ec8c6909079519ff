use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn place() -> Region {
    Region {
        cloud: Cloud::Aws,
        name: "us-east-1".to_owned(),
        zones: vec!["a".to_owned()],
    }
}

fn check(name: &str, text: &str, expected: &Expect) {
    let said = match read(name, text.as_bytes(), Some(&place())) {
        Ok(rows) => rows
            .iter()
            .map(|row| {
                let (kind, sold) = row.offered();
                let prices: Vec<String> = sold
                    .iter()
                    .map(|o| format!("{} {} {}", o.zone, o.capacity_type, o.price))
                    .collect();
                let gpu = kind.gpu.map(|g| format!(" {}x{}", g.count, g.sku));
                format!(
                    "{}{}: {}\n",
                    kind.name,
                    gpu.unwrap_or_default(),
                    prices.join(", ")
                )
            })
            .collect::<String>(),
        Err(problems) => problems.iter().map(|p| format!("{p}\n")).collect(),
    };
    expected.assert_eq(&said);
}

#[test]
fn csv_and_yaml_say_the_same() {
    let csv = "# ours\ntype,vcpu,memory_mib,gpu_sku,gpu_count,gpu_memory_mib,on_demand,spot,zones\n\
               box.l4,16,65536,l4,1,22888,0.5,,a us-east-1b\n";
    let yaml = "types:\n- {type: box.l4, vcpu: 16, memory_mib: 65536, gpu_sku: l4, gpu_count: 1,\n   \
                gpu_memory_mib: 22888, on_demand: 0.5, zones: [a, us-east-1b]}\n";
    let expected = expect![[r#"
        box.l4 1xL4: us-east-1a on-demand 0.50 USD/h, us-east-1b on-demand 0.50 USD/h
    "#]];
    check("own.csv", csv, &expected);
    check("own.yaml", yaml, &expected);
}

#[test]
fn every_fault_names_file_line_field_and_fix() {
    check(
        "own.csv",
        "type,vcpu,memory_mib,on_demand,spot,gpu_sku,arch\n\
         a,4,,0.5,,,\n\
         b,4,16384,NaN,,,\n\
         c,4,16384,-0.5,,,\n\
         d,4,16384,1000001,,,\n\
         e,four,16384,0.5,,,\n\
         f,4,16384,,,,\n\
         g,4,16384,0.5,,L4,\n\
         h,4,16384,0.5,free,,sparc\n\
         i,4,16384,0,,,\n\
         ,4,16,0.5,,,\n\
         j,4,16384,0.5,,,\n\
         j,4,16384,0.6,,,\n",
        &expect![[r#"
            own.csv, line 2, memory_mib: is empty; write memory in MiB such as 16384
            own.csv, line 3, on_demand: NaN is not a price in USD per hour: it must be a number from 0 to 100000
            own.csv, line 4, on_demand: -0.5 is not a price in USD per hour: it must be a number from 0 to 100000
            own.csv, line 5, on_demand: 1000001 is not a price in USD per hour: it must be a number from 0 to 100000
            own.csv, line 6, vcpu: "four" is no number of vCPUs: write one such as 4
            own.csv, line 7, on_demand: neither on_demand nor spot has a price
            own.csv, line 8, gpu_sku: gpu_sku, gpu_count (1 to 1024) and gpu_memory_mib go together: write all three or none
            own.csv, line 9, arch: "sparc" is no architecture: amd64 or arm64
            own.csv, line 9, spot: "free" is no price: write USD per hour such as 0.8048
            own.csv, line 10, on_demand: 0 is free, which nothing is: leave it empty if unsold
            own.csv, line 11, type: is empty; write the type's name
            own.csv, line 11, memory_mib: 16 MiB is no machine's memory: write MiB such as 16384
            own.csv, line 13, type: j is on line 12 already; remove one
        "#]],
    );
}

#[test]
fn a_file_that_is_no_table_is_one_problem() {
    check(
        "own.csv",
        "",
        &expect![[r#"
        own.csv: is empty; it needs a header and one row per type
    "#]],
    );
    check(
        "own.csv",
        "type,vcpu,memory_mib,on_demand\n",
        &expect![[r#"
        own.csv: has no row; it needs one per type
    "#]],
    );
    check(
        "own.csv",
        "type,vcpu,memory_mib,on_demand\na,4,16",
        &expect![[r#"
            own.csv, line 2: has 3 fields where the header has 4: the row or the file is cut short
        "#]],
    );
    check(
        "own.csv",
        "type,vcpu,memory\na,4,16384\n",
        &expect![[r#"
        own.csv, line 1: "memory" is no column; there are cloud, region, type, family, arch, vcpu, memory_mib, gpu_sku, gpu_count, gpu_memory_mib, gpu_resource, network_mbps, disk_mbps, local_nvme_gb, max_pods, on_demand, spot, interruptions_per_million_h, zones, agent_s, ready_s, allocatable_s
    "#]],
    );
    check(
        "own.csv",
        "type,type\na,b\n",
        &expect![[r#"
        own.csv, line 1: column type stands twice; remove one
    "#]],
    );
    check(
        "own.csv",
        "type,vcpu\n\"a,4\n",
        &expect![[r#"
        own.csv: line 2: the quote that opens here is never closed: the file is cut short
    "#]],
    );
    check(
        "own.yaml",
        "types: [{type: a, price: 1}]\n",
        &expect![[r#"
        own.yaml, line 1: "price" is no column; there are cloud, region, type, family, arch, vcpu, memory_mib, gpu_sku, gpu_count, gpu_memory_mib, gpu_resource, network_mbps, disk_mbps, local_nvme_gb, max_pods, on_demand, spot, interruptions_per_million_h, zones, agent_s, ready_s, allocatable_s
    "#]],
    );
    check(
        "own.yaml",
        "types:\n- {type: a, vcpu: 4, memory_mib: 64, on_demand: .nan}\n",
        &expect![[r#"
            own.yaml, line 2: non-finite float `.nan` rejected by the configured policy at line 2, column 49; rows stand in a list under `types:`
        "#]],
    );
    check(
        "own.yaml",
        "kind: Deployment\n",
        &expect![[r#"
        own.yaml, line 1: unknown field `kind`, expected one of types at line 1, column 1; rows stand in a list under `types:`
    "#]],
    );
    check(
        "own.yaml",
        "types: [\n",
        &expect![[r#"
        own.yaml, line 1: unclosed bracket '[' at line 1, column 8; rows stand in a list under `types:`
    "#]],
    );
}

#[test]
fn a_row_without_region_needs_the_command_line() {
    let problems = read(
        "own.csv",
        b"type,vcpu,memory_mib,on_demand\na,4,16384,1\n",
        None,
    );
    let said: Vec<String> = problems
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        ["own.csv, line 2, cloud: is empty; write it, or give --cloud"]
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        text in "(type|vcpu|memory_mib|on_demand|zones|,|\n|\"|4|-|nan|a| |: |\\[|\\{|\\}|types:){0,40}",
        yaml in any::<bool>(),
    ) {
        let name = if yaml { "x.yaml" } else { "x.csv" };
        let _ = read(name, text.as_bytes(), Some(&place()));
    }
}
