//! What a plugin file may contain, checked before it is compiled.
//!
//! A compiler takes more than linear time and memory for some code, and cannot be stopped, so the
//! host refuses what would take long: see `docs/decisions/0017-bound-compilation-by-static-limits.md`.
//! The check itself is one pass over the file. A limit that the instance pool sets is checked here,
//! too, so that the refusal says so on every host.

use wasmparser::{BlockType, CompositeInnerType, FunctionBody, Operator, Parser, Payload, TypeRef};

/// A limit that a file exceeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} has {size} {what}; the limit of this host is {max}")]
pub struct OverLimit {
    /// The file, or a part of it.
    place: String,
    /// What there is too much of.
    what: &'static str,
    size: u64,
    max: u64,
}

/// Most of each, in a whole file.
const CODE_MAX_BYTES: u64 = 48 << 20;
const FUNCTIONS_MAX: u64 = 60_000;
/// Types, imports, exports, globals, segments, instances, aliases and so on.
const ITEMS_MAX: u64 = 200_000;
const MODULES_MAX: u64 = 200;
/// Components within components.
const NESTING_MAX: u64 = 20;
/// The types of a core module for its component, which are parsed as WIT.
const COMPONENT_TYPE_MAX_BYTES: u64 = 1 << 20;

/// Most that one core module defines: what a slot of the instance pool has.
const MEMORIES_MAX: u64 = 1;
const TABLES_MAX: u64 = 1;
/// Parameters, and results, of a core function.
const PARAMETERS_MAX: u64 = 100;
const RESULTS_MAX: u64 = 16;

/// Most of each, in one function.
const FUNCTION_MAX_BYTES: u64 = 1 << 20;
const LOCALS_MAX: u64 = 5_000;
/// Blocks and the targets of branches.
const EDGES_MAX: u64 = 20_000;
/// Blocks within blocks.
const DEPTH_MAX: u64 = 5_000;
/// Edges times locals: what may live across what.
const SPREAD_MAX: u64 = 2_000_000;
/// Parameters and results of all its calls.
const PASSED_MAX: u64 = 200_000;

/// What a function costs to compile grows with its edges times the locals, and with the square of
/// its edges: so many of them cost as much as one local.
const EDGES_PER_LOCAL: u64 = 50;
/// Most of that in all functions together: about a minute on one core.
const WORK_MAX: u64 = 200_000_000;

/// What a file costs to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileCost {
    /// Bytes of all functions.
    pub(super) code_bytes: u64,
}

/// What was counted in a file so far.
#[derive(Default)]
struct Counts {
    code_bytes: u64,
    functions: u64,
    items: u64,
    modules: u64,
    work: u64,
}

/// A core module or a component that is being read.
#[derive(Default)]
struct Module {
    /// Its number in the file.
    number: u64,
    /// Parameters and results of its types; none for a type of another kind.
    types: Vec<u64>,
    /// Types of its functions, imported ones first.
    functions: Vec<u32>,
    /// Functions whose body was read.
    bodies: u64,
    memories: u64,
    tables: u64,
}

/// Checks a core module or a component. What cannot be parsed is left to the compiler, which reports
/// it.
pub(super) fn check(bytes: &[u8]) -> Result<FileCost, OverLimit> {
    let mut counts = Counts::default();
    // The outermost first.
    let mut open = vec![Module::default()];
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else { break };
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                counts.modules += 1;
                over(FILE, "modules and components", counts.modules, MODULES_MAX)?;
                open.push(Module { number: counts.modules, ..Module::default() });
                over(FILE, "components within components", open.len() as u64, NESTING_MAX)?;
            }
            Payload::End(_) => _ = open.pop(),
            _ => {}
        }
        if let Some(module) = open.last_mut() {
            module.count(&payload, &mut counts)?;
        }
    }
    Ok(FileCost { code_bytes: counts.code_bytes })
}

const FILE: &str = "the file";

fn over(
    place: impl Into<String>,
    what: &'static str,
    size: u64,
    max: u64,
) -> Result<(), OverLimit> {
    if size <= max { Ok(()) } else { Err(OverLimit { place: place.into(), what, size, max }) }
}

impl Module {
    fn place(&self) -> String {
        format!("module {}", self.number)
    }

    fn count(&mut self, payload: &Payload<'_>, counts: &mut Counts) -> Result<(), OverLimit> {
        let items = match payload {
            Payload::TypeSection(section) => {
                for group in section.clone() {
                    let Ok(group) = group else { return Ok(()) };
                    for kind in group.types() {
                        self.add_type(&kind.composite_type.inner)?;
                    }
                }
                section.count()
            }
            Payload::ImportSection(section) => {
                let imports = section.clone().into_imports();
                for import in imports {
                    if let Ok(wasmparser::Import { ty: TypeRef::Func(kind), .. }) = import {
                        self.functions.push(kind);
                    }
                }
                section.count()
            }
            Payload::FunctionSection(section) => {
                counts.functions += u64::from(section.count());
                over(FILE, "functions", counts.functions, FUNCTIONS_MAX)?;
                self.functions.extend(section.clone().into_iter().map_while(Result::ok));
                0
            }
            Payload::MemorySection(section) => {
                self.memories += u64::from(section.count());
                over(self.place(), "memories of its own", self.memories, MEMORIES_MAX)?;
                section.count()
            }
            Payload::TableSection(section) => {
                self.tables += u64::from(section.count());
                over(self.place(), "tables of its own", self.tables, TABLES_MAX)?;
                section.count()
            }
            Payload::CodeSectionEntry(body) => return self.count_function(body, counts),
            Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                let bytes = section.data().len() as u64;
                over(FILE, "bytes of component types", bytes, COMPONENT_TYPE_MAX_BYTES)?;
                1
            }
            other => items_of(other),
        };
        counts.items += u64::from(items);
        over(FILE, "types, imports, exports and other items", counts.items, ITEMS_MAX)
    }

    fn add_type(&mut self, kind: &CompositeInnerType) -> Result<(), OverLimit> {
        let CompositeInnerType::Func(function) = kind else {
            self.types.push(0);
            return Ok(());
        };
        let (parameters, results) =
            (function.params().len() as u64, function.results().len() as u64);
        over(self.place(), "parameters in a function type", parameters, PARAMETERS_MAX)?;
        over(self.place(), "results in a function type", results, RESULTS_MAX)?;
        self.types.push(parameters + results);
        Ok(())
    }

    /// Values that a call of a function of this type passes.
    fn passed(&self, kind: u32) -> u64 {
        self.types.get(kind as usize).copied().unwrap_or_default()
    }

    fn count_function(
        &mut self,
        body: &FunctionBody<'_>,
        counts: &mut Counts,
    ) -> Result<(), OverLimit> {
        let place = || format!("function {} of {}", self.bodies, self.place());
        let bytes = body.range().len() as u64;
        counts.code_bytes += bytes;
        over(FILE, "bytes of code", counts.code_bytes, CODE_MAX_BYTES)?;
        over(place(), "bytes", bytes, FUNCTION_MAX_BYTES)?;
        let mut locals = 0;
        for local in body.get_locals_reader().into_iter().flatten() {
            let Ok((count, _)) = local else { return Ok(()) };
            locals += u64::from(count);
        }
        over(place(), "locals", locals, LOCALS_MAX)?;
        let (mut edges, mut passed, mut depth) = (0, 0, 0u64);
        for operator in body.get_operators_reader().into_iter().flatten() {
            let Ok(operator) = operator else { return Ok(()) };
            match operator {
                Operator::Block { blockty }
                | Operator::Loop { blockty }
                | Operator::If { blockty } => {
                    if let BlockType::FuncType(kind) = blockty {
                        passed += self.passed(kind);
                    }
                    edges += 1;
                    depth += 1;
                    over(place(), "blocks within blocks", depth, DEPTH_MAX)?;
                }
                Operator::End => depth = depth.saturating_sub(1),
                Operator::BrTable { targets } => edges += u64::from(targets.len()) + 1,
                Operator::Else
                | Operator::Br { .. }
                | Operator::BrIf { .. }
                | Operator::BrOnNull { .. }
                | Operator::BrOnNonNull { .. }
                | Operator::Return => edges += 1,
                Operator::Call { function_index } => {
                    let kind = self.functions.get(function_index as usize);
                    passed += kind.map_or(0, |kind| self.passed(*kind)) + 1;
                }
                Operator::CallIndirect { type_index, .. }
                | Operator::CallRef { type_index }
                | Operator::ReturnCallIndirect { type_index, .. }
                | Operator::ReturnCallRef { type_index } => {
                    passed += self.passed(type_index) + 1;
                }
                _ => {}
            }
        }
        over(place(), "blocks and targets of branches", edges, EDGES_MAX)?;
        over(place(), "locals times blocks", edges * locals, SPREAD_MAX)?;
        over(place(), "parameters and results of its calls", passed, PASSED_MAX)?;
        counts.work += edges * (locals + edges / EDGES_PER_LOCAL);
        over(FILE, "units of work for the compiler in its functions", counts.work, WORK_MAX)?;
        self.bodies += 1;
        Ok(())
    }
}

/// Items of a section that needs no closer look.
fn items_of(payload: &Payload<'_>) -> u32 {
    match payload {
        Payload::TagSection(section) => section.count(),
        Payload::GlobalSection(section) => section.count(),
        Payload::ExportSection(section) => section.count(),
        Payload::ElementSection(section) => section.count(),
        Payload::DataSection(section) => section.count(),
        Payload::InstanceSection(section) => section.count(),
        Payload::CoreTypeSection(section) => section.count(),
        Payload::ComponentInstanceSection(section) => section.count(),
        Payload::ComponentAliasSection(section) => section.count(),
        Payload::ComponentTypeSection(section) => section.count(),
        Payload::ComponentCanonicalSection(section) => section.count(),
        Payload::ComponentImportSection(section) => section.count(),
        Payload::ComponentExportSection(section) => section.count(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<FileCost, String> {
        check(&wat::parse_str(text).unwrap()).map_err(|over| over.to_string())
    }

    /// A module with one function of this code.
    fn function(locals: u64, code: &str) -> String {
        let locals = "i32 ".repeat(locals as usize);
        format!("(module (func $f (param i32) (local {locals}) {code}))")
    }

    /// What a refusal says, the limit, and a file that has this much of it.
    type Case<'a> = (&'a str, u64, &'a dyn Fn(u64) -> String);

    fn times(text: &str, count: u64) -> String {
        text.repeat(count as usize)
    }

    #[test]
    fn what_takes_long_to_compile_is_refused_with_the_limit() {
        let branch = "(if (local.get 0) (then))";
        let nested = |depth| format!("{}{}", times("block ", depth), times("end ", depth));
        let targets = |count| format!("block local.get 0 br_table {} end", times("0 ", count));
        let wide = |count| format!("(param {})", times("i32 ", count));
        let types = |count| format!("(module (type (func {})))", wide(count));
        let many =
            |results: u64| format!("(module (type (func (result {}))))", times("i32 ", results));
        let calls = |count: u64| {
            let call = format!("{}call $g ", times("local.get 0 ", 20));
            format!("(module (func $g {}) (func (param i32) {}))", wide(20), times(&call, count))
        };
        let blocks = |count: u64| {
            let block = format!(
                "{} block (param {}) {} end ",
                times("local.get 0 ", 20),
                times("i32 ", 20),
                times("drop ", 20)
            );
            format!("(module (func (param i32) {}))", times(&block, count))
        };
        let modules = |count| format!("(component {})", times("(core module)", count));
        let components = |depth| format!("{}{}", times("(component ", depth), times(")", depth));
        let functions = |count| format!("(module {})", times("(func)", count));
        let items = |count| format!("(module {})", times("(global i32 i32.const 0)", count));
        let memories = |count| format!("(component (core module {}))", times("(memory 1)", count));
        let tables = |count| format!("(module {})", times("(table 1 funcref)", count));
        let straight = |bytes: u64| function(1, &times("nop ", bytes));
        let cases: [Case<'_>; 15] = [
            ("blocks and targets of branches", EDGES_MAX, &|count| {
                function(1, &times(branch, count))
            }),
            ("blocks and targets of branches", EDGES_MAX, &|count| {
                function(1, &targets(count - 1))
            }),
            ("blocks within blocks", DEPTH_MAX, &|depth| function(1, &nested(depth))),
            ("locals", LOCALS_MAX, &|count| function(count, "")),
            ("locals times blocks", SPREAD_MAX, &|size| {
                function(size / 1_000, &times(branch, 1_000 + size % 1_000))
            }),
            ("parameters in a function type", PARAMETERS_MAX, &types),
            ("results in a function type", RESULTS_MAX, &many),
            ("parameters and results of its calls", PASSED_MAX, &|count| {
                calls(count / 21 + count % 2)
            }),
            ("parameters and results of its calls", PASSED_MAX, &|count| {
                blocks(count / 20 + count % 2)
            }),
            ("modules and components", MODULES_MAX, &modules),
            ("components within components", NESTING_MAX, &|depth| components(depth)),
            ("functions", FUNCTIONS_MAX, &functions),
            ("types, imports, exports and other items", ITEMS_MAX - 10, &|count| {
                items(count + 10 * (count % 2))
            }),
            ("memories of its own; the limit of this host is 1", MEMORIES_MAX, &memories),
            ("tables of its own; the limit of this host is 1", TABLES_MAX, &tables),
        ];
        for (what, max, build) in cases {
            assert_eq!(checked(&build(max)).err(), None, "{what}");
            let refused = checked(&build(max + 1)).unwrap_err();
            assert!(refused.contains(what), "{refused}");
        }
        let refused = checked(&straight(FUNCTION_MAX_BYTES + 1)).unwrap_err();
        assert!(
            refused.contains("function 0 of module 0 has") && refused.contains("bytes"),
            "{refused}"
        );
    }

    #[test]
    fn sums_over_all_functions_are_bounded() {
        let branches = times("(if (local.get 0) (then))", EDGES_MAX);
        let function = format!("(func (param i32) {branches})");
        let within = WORK_MAX / (EDGES_MAX * (EDGES_MAX / EDGES_PER_LOCAL));
        let code = wat::parse_str(format!("(module {})", times(&function, 1))).unwrap();
        // The text of so many functions is slow to parse: the counts are carried over instead.
        let mut counts = Counts::default();
        for number in 0..=within {
            let body = Parser::new(0).parse_all(&code).find_map(|payload| match payload {
                Ok(Payload::CodeSectionEntry(body)) => Some(body),
                _ => None,
            });
            let counted = Module::default().count_function(&body.unwrap(), &mut counts);
            assert_eq!(counted.is_err(), number == within, "{number}");
        }
    }

    #[test]
    fn invalid_files_are_left_to_the_compiler() {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0\x01", b"\0asm\x0d\0\x01\0\xff"] {
            assert!(check(bytes).is_ok());
        }
    }
}
