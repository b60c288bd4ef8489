//! What clients in other languages rely on: what the proto file has once had, it keeps.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const REVISIONS: &str = include_str!("../proto/controllerbus/api/v1/REVISIONS");

/// A call, or a field with its number and type, on a line each.
fn promises() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(controllerbus_api::DESCRIPTORS).expect("descriptors");
    let own = files.file.iter().filter(|file| file.package() == "controllerbus.api.v1");
    let mut promises = BTreeSet::new();
    for file in own {
        for service in &file.service {
            for call in &service.method {
                let streams = if call.server_streaming() { "stream " } else { "" };
                let (takes, gives) = (short(call.input_type()), short(call.output_type()));
                promises.insert(format!("{}.{}({takes}) {streams}{gives}", service.name(), call.name()));
            }
        }
        for message in &file.message_type {
            fields(message, &mut promises);
        }
    }
    promises
}

fn fields(message: &DescriptorProto, promises: &mut BTreeSet<String>) {
    for field in &message.field {
        let of = format!("{}.{}", message.name(), field.name());
        promises.insert(format!("{of} = {} {}{}", field.number(), label(field), kind(field)));
    }
    assert!(message.nested_type.is_empty() && message.enum_type.is_empty(), "{} has some inside", message.name());
}

fn label(field: &FieldDescriptorProto) -> &'static str {
    match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message => short(field.type_name()).to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn short(name: &str) -> &str {
    name.trim_start_matches(".controllerbus.api.v1.")
}

#[test]
fn no_call_or_field_that_was_ever_there_changes_and_each_addition_is_in_a_revision() {
    let promises = promises();
    let mut listed = BTreeSet::new();
    let mut revisions = Vec::new();
    for line in REVISIONS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("revision ") {
            Some(number) => revisions.push(number.parse::<u32>().expect("a number")),
            None => assert!(listed.insert(line.to_owned()), "it is listed twice: {line}"),
        }
    }
    let broken: Vec<_> = listed.difference(&promises).collect();
    assert!(broken.is_empty(), "clients rely on what the proto file has no more, or not as it was: {broken:#?}");
    let added: Vec<_> = promises.difference(&listed).map(String::as_str).collect();
    assert!(
        added.is_empty(),
        "write these into REVISIONS, in a revision that is not released yet:\n{}",
        added.join("\n")
    );
    let expected: Vec<u32> = (1..=controllerbus_api::API_REVISION).collect();
    assert_eq!(revisions, expected, "the last revision in REVISIONS is `API_REVISION`");
}
