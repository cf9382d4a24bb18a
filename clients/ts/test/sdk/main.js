import "program";
