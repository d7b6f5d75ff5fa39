;; A core module that says nothing about any world.
(module (func (export "run") (result i32) (i32.const 42)))
