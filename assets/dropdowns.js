// Takes work off every change of the page.
//
// Dash compares all that changed below a component that is marked `dashChildrenUpdate`, each time
// that anything on the page changes: a sixth of the time from a click on a head to its map. What
// is in our dropdowns are components of their own, which follow their own changes.

(function () {
  "use strict";

  const components = window.dash_mantine_components || {};
  for (const name of ["MenuDropdown", "MenuItem", "PopoverDropdown"]) {
    if (components[name]) {
      components[name].dashChildrenUpdate = false;
    }
  }
})();
