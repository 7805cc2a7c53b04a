//! Our `workload.proto` has exactly the names and numbers of the SPIFFE specification.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorProto};

#[test]
fn the_workload_api_is_wire_compatible_with_the_specification() {
    let Some(path) = countersign_testkit::vectors("spiffe/standards/workloadapi.proto") else { return };
    let specified = facts(&compile(&path));
    let ours = facts(&compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/workload.proto")));
    assert!(specified.len() > 40, "the specification was read");
    assert_eq!(ours, specified);
}

fn compile(path: &Path) -> FileDescriptorProto {
    let set = protox::compile([path], [path.parent().unwrap()]).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    set.file.into_iter().find(|file| file.name() == name).unwrap()
}

/// One line per method and per field: all that decides what is on the wire.
fn facts(file: &FileDescriptorProto) -> BTreeSet<String> {
    assert_eq!(file.package(), "", "the service has no package");
    let mut facts = BTreeSet::new();
    for service in &file.service {
        for method in &service.method {
            facts.insert(format!(
                "/{}/{} {} -> {} {}",
                service.name(),
                method.name(),
                method.input_type(),
                method.output_type(),
                method.server_streaming()
            ));
        }
    }
    file.message_type.iter().for_each(|message| add_fields(&mut facts, message.name(), message));
    facts
}

fn add_fields(facts: &mut BTreeSet<String>, name: &str, message: &DescriptorProto) {
    facts.insert(format!("message {name}"));
    for field in &message.field {
        let (kind, label): (Type, Label) = (field.r#type(), field.label());
        facts.insert(format!(
            "{name}.{} = {} {kind:?} {label:?} {}",
            field.name(),
            field.number(),
            field.type_name()
        ));
    }
    for nested in &message.nested_type {
        add_fields(facts, &format!("{name}.{}", nested.name()), nested);
    }
}
