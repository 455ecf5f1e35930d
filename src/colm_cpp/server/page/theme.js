// Colours that were chosen, before anything is drawn. Storage may be forbidden; then the system decides.
"use strict";
try {
  const theme = localStorage.getItem("colm.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // The chats say that nothing can be kept.
}
