package main

// What the host calls: see postrider/export_postrider_stage_handler.
import _ "stage/gen/wit_exports"
