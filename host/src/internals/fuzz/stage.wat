;; The smallest stage: what the loader's fuzzer damages. It carries no component type: the host takes it for one of the contract's world.
(module
  (memory (export "memory") 1)
  (data (i32.const 256) "small1.0one stageorder.createdx.done")
  ;; description: name, version, summary, consumes, emits, attributes; a pointer and a length each
  (data (i32.const 64)
    "\00\01\00\00\05\00\00\00" "\05\01\00\00\03\00\00\00" "\08\01\00\00\09\00\00\00"
    "\80\00\00\00\01\00\00\00" "\88\00\00\00\01\00\00\00" "\00\00\00\00\00\00\00\00")
  ;; the one type consumed, the one emitted
  (data (i32.const 128) "\11\01\00\00\0d\00\00\00" "\1e\01\00\00\06\00\00\00")
  (global $next (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
  (func (export "postrider:stage/handler@1.0.0#describe") (result i32)
    (i32.const 64))
  ;; id, type, source, subject, time, content type, data, attributes; nothing is emitted
  (func (export "postrider:stage/handler@1.0.0#handle")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32) (result i32)
    (i32.const 192)))
